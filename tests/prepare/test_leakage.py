import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medkd.prepare.aliases import collect_aliases
from medkd.prepare.leakage import find_answer, has_answer, remove_answer


@pytest.mark.parametrize(
    ("diagnosis", "before", "after"),
    [
        ("脑积水", "目前诊断脑积水，给予甘露醇脱水。", "给予甘露醇脱水。"),
        ("脑积水", "头颅CT示脑室扩张，考虑脑积水。予脱水治疗。", "头颅CT示脑室扩张。予脱水治疗。"),
        ("脑积水", "门诊拟诊“脑积水”收入院。", "门诊收入院。"),
        ("脑积水", "为进一步诊治，以脑积水为诊断收入我科。", "为进一步诊治，收入我科。"),
        ("脑积水", "外院曾考虑脑积水，未予治疗。", "未予治疗。"),
        ("脑积水", "上述结果支持脑积水。予对症处理。", "予对症处理。"),
        ("脑积水", "头颅CT示脑积水，予脱水治疗。", "头颅CT示某病，予脱水治疗。"),
        ("脑积水", "结合患者病史及检查，诊断为脑积水。", "结合患者病史及检查，诊断为某病。"),
        ("脑积水", "既往有“高血压、脑积水、糖尿病”病史。", "既往有“高血压、糖尿病”病史。"),
        ("脑积水", "胆囊壁增厚，脑积水。脾大。", "胆囊壁增厚。脾大。"),
        ("肺炎；肝囊肿", "诊断为：1.肺炎；2.肝囊肿；3.脂肪肝。", "诊断为：1.某病；3.脂肪肝。"),
        (
            "高血压病3级（很高危）",
            "高血压病史10余年，平素口服氨氯地平。",
            "某病史10余年，平素口服氨氯地平。",
        ),
        ("高血压", "最高血压180/100mmHg，规律服药。", "血压最高180/100mmHg，规律服药。"),
        (
            "Pneumonia",
            "Chest CT consistent with pneumonia, started on ceftriaxone.",
            "Chest CT consistent with [disease], started on ceftriaxone.",
        ),
        ("急性ST段抬高型心肌梗死", "考虑急性心梗，予溶栓。", "予溶栓。"),
        ("肺炎", "双肺炎症，肺炎支原体阴性。", "双肺部炎性改变，支原体阴性。"),
        (
            "急性阑尾炎",
            "初步考虑为急性阑尾炎？术后诊断：急性化脓性阑尾炎。",
            "初步考虑为某病？术后诊断：急性化脓性某病。",
        ),
        (
            "Acute appendicitis",
            "Appendectomy for appendicitis was done.",
            "Appendectomy for [disease] was done.",
        ),
        ("心肌梗塞", "外院诊断急性心梗，予溶栓。", "予溶栓。"),
        ("脑积水", "脑-积水及脑 积 水均可见。", "某病均可见。"),
        (
            "获得性免疫缺陷综合征（HIV）",
            "诊断获得性免疫缺陷综合征（HIV）。予抗病毒。",
            "予抗病毒。",
        ),
        ("咯血", "咳嗽、咯血1天。", "咳嗽、痰中带血1天。"),
        ("左眼色素性青光眼", "考虑色素性青光眼可能，行房角镜检查。", "行房角镜检查。"),
    ],
)
def test_the_answer_goes_and_the_sentence_stays_readable(
    diagnosis: str, before: str, after: str
) -> None:
    assert remove_answer(before, collect_aliases([diagnosis])) == after


@pytest.mark.parametrize(
    ("diagnosis", "text"),
    [
        ("急性肾盂肾炎", "既往有肺结核病史3年，否认高血压、糖尿病史。"),
        ("急性乙型肝炎", "乙型肝炎表面抗原阳性，乙型肝炎病毒DNA升高。"),
        ("慢性胃炎", "考虑胆囊炎，予抗感染治疗。"),
        ("原发性高血压", "否认高血压、冠心病史。"),
        ("肺炎（真菌感染）", "肺炎支原体抗体阴性，考虑细菌感染，，原文如此。"),
    ],
)
def test_other_diseases_tests_germs_and_denials_stay(diagnosis: str, text: str) -> None:
    assert remove_answer(text, collect_aliases([diagnosis])) == text


def test_what_the_cuts_bring_together_is_cut_again() -> None:
    answer = collect_aliases(["脑积水"])
    assert not has_answer(remove_answer("脑脑积水积水扩张。", answer), answer)


words = st.sampled_from(
    [
        "脑积水",
        "肺炎",
        "2型糖尿病",
        "考虑",
        "诊断为",
        "、",
        "，",
        "。",
        "1.",
        "2.",
        "“",
        "”",
        "以",
        "收入院",
        "咳嗽",
        "（",
        "）",
        "脑",
        "积水",
        "某病",
        " ",
    ]
)


@settings(max_examples=200)
@given(st.lists(words, max_size=25))
def test_no_listed_diagnosis_remains_in_any_text(parts: list[str]) -> None:
    answer = collect_aliases(["1.脑积水", "2.2型糖尿病", "肺炎；"])
    scrubbed = remove_answer("".join(parts), answer)
    assert not has_answer(scrubbed, answer)
    assert not any(span.name in answer.listed for span in find_answer(scrubbed, answer))


@pytest.mark.parametrize(
    ("diagnosis", "text", "left"),
    [
        (
            "右肺继发性肺结核、肠结核",
            "夜间盗汗，无咳嗽、咳血，曾于当地医院肠镜检查，示继发性肺结核、肠结核，予异烟肼。",
            "夜间盗汗，无咳嗽、咳血，曾于当地医院肠镜检查，示某病，予异烟肼。",
        ),
        ("右肺继发性肺结核", "无发热，外院诊断为肺结核，未治疗。", "无发热，未治疗。"),
        ("右肺继发性肺结核", "否认肝炎、肺结核病史。", "否认肝炎、肺结核病史。"),
        ("右肺继发性肺结核", "无肝炎、曾接触肺结核史。", "无肝炎、曾接触肺结核史。"),
        (
            "右肺继发性肺结核",
            "否认高血压，冠心病，肺结核，肝炎史。",
            "否认高血压，冠心病，肺结核，肝炎史。",
        ),
        ("右肾结石伴积水", "无尿急，B超发现肾结石。", "无尿急，B超发现某病。"),
        (
            "支气管哮喘急性发作",
            "无发热，自诉哮喘又犯，自用沙丁胺醇。",
            "无发热，自诉某病又犯，自用沙丁胺醇。",
        ),
        ("急性阑尾炎", "无腹泻，排除阑尾炎后返家。", "无腹泻，排除阑尾炎后返家。"),
        (
            "心律失常偶发房早、短阵房速",
            "动态心电图提示：短阵房速、多源性改变。",
            "动态心电图提示：多源性改变。",
        ),
    ],
)
def test_what_is_denied_ends_where_a_finding_is_told(diagnosis: str, text: str, left: str) -> None:
    assert remove_answer(text, collect_aliases([diagnosis])) == left


@pytest.mark.parametrize(
    ("diagnosis", "text"),
    [
        ("高血压", "血压高，血压波动于150/90mmHg。"),
        ("高血压", "血压高；血压波动于150/90mmHg。"),
        ("高血压", "血压增高。血压波动于150/90mmHg。"),
        ("痛风", "关节疼痛，风湿科就诊。"),
        ("痛风", "关节疼痛、风湿病史。"),
        ("痛风", "关节疼痛；风湿科就诊。"),
        ("痛风", "关节疼痛（风湿科会诊）。"),
        ("痛风", "关节疼痛/风湿科。"),
        ("痛风", "关节疼痛？风寒感冒。"),
        ("痛风", "关节疼痛：风湿科就诊。"),
        ("痛风", "关节疼痛\n风湿科就诊。"),
        ("关節疼痛風", "關節疼痛，風濕科就診。"),
        ("肺癌", "双肺、癌胚抗原正常。"),
        ("胃炎", "慢性胃，炎症指标正常。"),
        ("Gout", "He took the drug outside the hospital."),
        ("Gout", "Pain of the leg. Out of bed."),
        ("ARDS", "Discharged towards home."),
        ("Flu", "Fluid intake was normal, influx seen."),
    ],
)
def test_a_listed_name_is_not_read_out_of_two_clauses_or_of_other_words(
    diagnosis: str, text: str
) -> None:
    assert remove_answer(text, collect_aliases([diagnosis])) == text


@pytest.mark.parametrize(
    ("diagnosis", "before", "after"),
    [
        ("急性膽囊炎", "外院诊断为急性胆囊炎，予抗感染。", "予抗感染。"),
        ("急性胆囊炎", "外院診斷為急性膽囊炎，予抗感染。", "予抗感染。"),
        ("急性胆囊炎", "B超考虑急性膽囊炎，予禁食。", "B超考虑某病，予禁食。"),
        ("急性膽囊炎", "既往有急性膽囊炎病史，現腹痛。", "既往有某病史，現腹痛。"),
        ("心房顫動", "既往房顫病史5年，心電圖示心房顫動。", "既往某病史5年，心電圖示某病。"),
        ("心房顫動", "既往房颤病史5年。", "既往某病史5年。"),
        ("心房颤动", "心電圖：房顫心律。", "心電圖：某病心律。"),
        ("急性胆囊炎", "诊断“急性\u200b胆囊炎”。予禁食。", "予禁食。"),
        ("Ⅱ型呼吸衰竭", "诊断II型呼吸衰竭，予通气。", "予通气。"),
        ("ＨＩＶ感染", "确诊HIV感染。予治疗。", "予治疗。"),
        ("高血壓", "最高血壓180/100mmHg。", "血压最高180/100mmHg。"),
        (
            "Gallstone",
            "Ultrasound showed gallstones in the sac.",
            "Ultrasound showed [disease]s in the sac.",
        ),
        ("Gout", "Known gout, treated.", "Known [disease], treated."),
        ("肾盂肾炎，急性", "考虑肾盂肾炎、急性，予抗感染。", "予抗感染。"),
    ],
)
def test_script_width_and_unseen_marks_hide_no_answer(
    diagnosis: str, before: str, after: str
) -> None:
    assert remove_answer(before, collect_aliases([diagnosis])) == after
