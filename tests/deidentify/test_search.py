import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medkd.core.errors import StoppedError
from medkd.core.jsonl import write_records
from medkd.core.records import RawCase
from medkd.deidentify.numbers import is_id_card
from medkd.deidentify.rules import Category, Match
from medkd.deidentify.search import RULES, find_identifiers, find_residue
from medkd.deidentify.stage import Config, run


def found(text: str) -> set[str]:
    return {text[find.start : find.end] for find in find_identifiers(text)}


@pytest.mark.parametrize(
    ("text", "identifiers"),
    [
        ("患者李建国，男，72岁，因胸痛入院", {"李建国"}),
        ("患者欧阳修文因腹痛就诊", {"欧阳修文"}),
        ("姓名：阿依古丽·买买提 性别：女", {"阿依古丽·买买提"}),
        ("其父张建军患高血压，其母刘桂英体健", {"张建军", "刘桂英"}),
        ("病史由其子王小军代述。", {"王小军"}),
        ("请心内科陈明教授会诊，王主任查房指示继续治疗", {"陈明", "王"}),
        ("主治医师：周晓燕，签名：赵磊", {"周晓燕", "赵磊"}),
        ("主管医师刘志强查房。", {"刘志强"}),
        ("患者张某某，女，56岁", {"张某某"}),
        ("李XX，男", {"李XX"}),
        ("身份证号11010519491231002X", {"11010519491231002X"}),
        ("医保卡号：330102198001011234", {"330102198001011234"}),
        ("联系电话13812345678，座机010-62345678", {"13812345678", "010-62345678"}),
        ("微信号zhang_wei88，邮箱abc@example.com", {"zhang_wei88", "abc@example.com"}),
        ("见https://example.com/a?b=1。", {"https://example.com/a?b=1"}),
        (
            "住院号0012345，床号12，CT号C20345，病理号：2021-04567",
            {"0012345", "12", "C20345", "2021-04567"},
        ),
        ("入住三病区25床", {"三病区", "25床"}),
        ("车牌粤B12345", {"粤B12345"}),
        ("家庭住址：河南省信阳市光山县文殊乡东岳村三组", {"河南省信阳市光山县文殊乡东岳村三组"}),
        (
            "患者王芳，家住江西省赣州市章贡区红旗大道86号3栋502室。",
            {"王芳", "江西省赣州市章贡区红旗大道86号3栋502室"},
        ),
        (
            "曾在广东省中医院住院，后转至复旦大学附属中山医院",
            {"广东省中医院", "复旦大学附属中山医院"},
        ),
        (
            "遂就诊于第九人民医院；先后在老隆镇卫生院、梅州市黄塘医院就诊",
            {"第九人民医院", "老隆镇卫生院", "梅州市黄塘医院"},
        ),
        ("于北京协和医院就诊", {"北京协和医院"}),
        (
            "2021年3月5日入院，2020.05.06复查，9月12日至15日发热",
            {"2021年3月5日", "2020.05.06", "9月12日", "15日"},
        ),
        ("患者92岁，退休", {"92岁"}),
        ("Patient Name: John Smith, seen by Dr. Brown", {"John Smith", "Brown"}),
        ("转出医生时光，转入医生明月，三线向荣。", {"时光", "明月", "向荣"}),
        ("孕妇花蕾，28岁。患者扎西卓玛之母代诉。", {"花蕾", "扎西卓玛"}),
        ("Dr.Wong来电。", {"Wong"}),
        (
            "Discussed w/ Kavita (case manager) on 5.16.23, reached at 555-0163 (cell). RTC 12/4.",
            {"Kavita", "5.16.23", "555-0163", "12/4"},
        ),
        ("Seen with Dr De la Cruz at 10:15.", {"De la Cruz"}),
        (
            "对比23.1.6旧片，末次月经2022,8,19，2O22年11月9日复查。",
            {"23.1.6", "2022,8,19", "2O22年11月9日"},
        ),
        ("于农历腊月二十三起病，手术于'21.06.30。", {"农历腊月二十三", "21.06.30"}),
        ("因 胸 痛 2 h 于 2 0 2 3 年 4 月 1 日 入 院 。", {"2 0 2 3 年 4 月 1 日"}),
        ("样本编号HN-WES-230518，序列号SN J4417-20933。", {"HN-WES-230518", "SN J4417-20933"}),
        ("转入云溪市公共卫生救治中心隔离负压二区治疗。", {"云溪市公共卫生救治中心", "负压二区"}),
        ("由养老院（金秋颐养园）护工小辛送来。", {"金秋颐养园", "小辛"}),
    ],
)
def test_identifiers_are_found_whole(text: str, identifiers: set[str]) -> None:
    assert found(text) == identifiers


@pytest.mark.parametrize(
    "text",
    [
        "患者高热，予退热；患者黄疸加深；患者平素体健；患者安静，患者严重贫血",
        "患者何时起病不详，患者于今日入院，患者全身乏力，患者时有咳嗽，患者左侧肢体无力",
        "巴彬斯基征阴性，霍夫曼征阴性，帕金森病，克氏针固定，文氏现象，马方综合征，白塞病，考虑成人斯蒂尔病可能，考虑老人帕金森病，丁氏(-)",
        "其母高血压病史，其父白血病，其子黄疸，其女体健，家属要求出院，妻子体健，父母健在",
        "血压130/80mmHg，NT-proBNP 2018.5pg/ml，HBV-DNA 1.2×10^7，白细胞20.22×10^9/L",
        "在当地医院、外院、我院、上级医院、县医院、当地卫生院、当地县人民医院治疗",
        "由于医生建议，对于医师的要求，当班医生，麻醉医生，任何医生，主任医师查房",
        "心前区，肝区、双肾区无叩击痛，黄斑区，疫区接触史，农村居住，术后镇痛，予镇静",
        "PSA was 4.1, 9.6 after it; PSA 2019, 9.6 now",
        "给予3号骨水泥，4号柄，床旁超声，卧床3天，入院第3天床旁彩超，2日后排气，住院13天",
        "89岁，III度，1200～1500ml，2000-3000ml，24小时尿蛋白2111.04mg，2050ml，身高180cm",
        "考虑医院获得性肺炎；医院感染；到正规医院就诊；检查X线，左肾结石X线正常",
        "金黄色葡萄球菌，华法林、万古霉素、柯萨奇病毒，雷诺现象，安乃近，黄体酮，苏黄止咳胶囊，康艾注射液",
        "步入病房，平车推入病房，安返病房；月经13岁，3-5天/28-30天",
        "1952年影像增强技术的应用使图像更清晰；1909年在上海召开的国际会议；ACC指南2022年中国版",
        "有一种叫做霍桑效应的现象，突变可能由于基因复制因而产生，上段和子宫正常，名字里的“酸”",
        "引起医院感染的细菌，外源性医院感染，日间医院，比如疾控中心，有助于统一市场",
        "实验确认报告阳性；复查 慢支；多趾（左足）；高血压病(左房大)；手术个人史左髂动脉支架；小儿康疹",
        "父亲石匠，女儿成年，家属方面，护士长时间",
    ],
)
def test_medical_words_and_numbers_are_left_alone(text: str) -> None:
    assert found(text) == set()


def test_every_rule_has_a_name_of_its_own() -> None:
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)


def test_an_identity_number_needs_its_check_digit() -> None:
    assert is_id_card("11010519491231002X")
    assert not is_id_card("110105194912310021")


@settings(deadline=None)
@given(
    st.text(
        alphabet=st.sampled_from(
            "患者张伟王主任医院市县镇号床年月日岁0123456789,，。：:第一二某XxA-@./ \n"
        ),
        max_size=120,
    )
)
def test_any_text_is_searched_without_error_and_finds_do_not_overlap(text: str) -> None:
    finds = find_identifiers(text)
    assert all(0 <= find.start < find.end <= len(text) for find in finds)
    assert all(a.end <= b.start for a, b in pairwise(finds))


def test_names_in_a_list_of_roles_are_found_whatever_words_they_are() -> None:
    text = "主持人：赖文峰主任 参加者：洪钟副主任医师、罗列主治医师、关山医师"
    assert found(text) == {"赖文峰", "洪钟", "罗列", "关山"}


def test_a_dotted_name_is_found_where_it_comes_again_without_context() -> None:
    assert found("姓名：阿依古丽·买买提。次日，阿依古丽·买买提，好转。") == {"阿依古丽·买买提"}
    text = "患者阿依古丽·买买提，女。见阿依古丽·买买提。"
    assert len(find_identifiers(text)) == 2


def kinds(text: str, *matches: Match) -> list[tuple[str, str]]:
    return [(left.kind.value, left.text) for left in find_residue([(text, "")], [list(matches)])]


def test_dates_and_long_numbers_that_nothing_covers_are_listed() -> None:
    assert kinds("１９９９年起，取药号 8842 0017 9，3月12日") == [
        ("date_shape", "１９９９年"),
        ("long_number", "8842 0017 9"),
        ("date_shape", "3月12日"),
    ]
    assert kinds("WBC 12.35×10^9/L，尿量1500ml，血压130/80mmHg") == []


def test_an_original_that_stands_elsewhere_is_listed_and_a_flag_too() -> None:
    name = Match(2, 5, "name", Category.NAME, "盛夏光")
    flag = Match(6, 9, "tagger_per", Category.NAME, "霍夫曼", is_flag=True)
    assert kinds("患者盛夏光，霍夫曼。盛夏光走了。", name, flag) == [
        ("flag", "霍夫曼"),
        ("original", "盛夏光"),
    ]


def test_strict_ends_with_3_and_the_manifest_counts_without_the_text(tmp_path: Path) -> None:
    case = RawCase(id="files:1", source="files", sections={"现病史": "取药码 8842 0017 9 ，发热。"})
    write_records(tmp_path / "raw_cases.jsonl", [case])
    config = Config(input=tmp_path, out=tmp_path / "out", strict=True)
    for _ in range(2):  # a finished directory is no less strict
        with pytest.raises(StoppedError, match="1 things are left") as caught:
            run(config)
        assert caught.value.exit_code == 3
    manifest = (tmp_path / "out" / "manifest.json").read_text()
    assert json.loads(manifest)["facts"]["residue"] == {"long_number": 1}
    assert "8842" not in manifest
    residue = tmp_path / "out" / "residue.jsonl"
    assert "8842 0017 9" in residue.read_text() and residue.stat().st_mode & 0o077 == 0
