"""What is right, what is near and what is dangerously near."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medkd.grading.compare import Relation
from medkd.grading.diagnosis import grade
from medkd.grading.extract import extract_diagnoses, split_list

SAME = [
    ("急性阑尾炎", "急性阑尾炎"),
    ("<think>转移性右下腹痛。</think>急性阑尾炎", "急性阑尾炎"),
    ("转移性右下腹痛。</think>\n\n急性阑尾炎。", "急性阑尾炎"),
    ("**最终诊断：** 急性阑尾炎\n\n**诊断依据：**\n1. 转移性右下腹痛", "急性阑尾炎"),
    ("根据上述表现，该患者最可能的诊断是急性阑尾炎。建议尽快手术。", "急性阑尾炎"),
    ("考虑急性阑尾炎可能性大", "急性阑尾炎"),
    ("急性阑尾炎？", "急性阑尾炎"),
    ("The most likely diagnosis is acute appendicitis.", "急性阑尾炎"),
    ("Ⅱ型糖尿病", "2型糖尿病"),
    ("二型糖尿病", "2 型糖尿病"),
    ("Type II diabetes mellitus", "2型糖尿病"),
    ("慢阻肺急性加重", "慢性阻塞性肺疾病急性加重期"),
    ("高血压病3级（很高危）", "高血压3级，极高危"),
    ("Ⅲ°房室传导阻滞", "三度房室传导阻滞"),
    ("类风湿性关节炎（RA）", "类风湿关节炎"),
    ("①急性脑梗塞②T2DM", "1.急性脑梗死；2.2型糖尿病"),
    ("1.左下肢急性蜂窝组织炎2.2型糖尿病3.双肾结石", "双肾结石；左下肢急性蜂窝组织炎；2型糖尿病"),
    ("初步诊断：肺炎。最终诊断：肺结核。", "肺结核"),
    ("肺炎已排除，考虑肺栓塞", "肺栓塞"),
    ("不排除肺栓塞", "肺栓塞"),
    ("无痛性甲状腺炎", "无痛性甲状腺炎"),
    ("颈部包块", "颈部肿物"),
    ("腹股沟肿块", "腹股沟肿物"),
    ("头疼", "头痛"),
    ("肝肿大", "肝大"),
    ("坏死后肝硬变", "坏死后肝硬化"),
    ("恶性胸水", "恶性胸腔积液"),
]

DANGEROUS = [
    ("右侧输尿管结石", "左侧输尿管结石"),
    ("1型糖尿病", "2型糖尿病"),
    ("慢性胆囊炎", "急性胆囊炎"),
    ("肺良性肿瘤", "肺恶性肿瘤"),
    ("甲状腺功能减退症", "甲状腺功能亢进症"),
    ("高钾血症", "低钾血症"),
    ("小细胞肺癌", "非小细胞肺癌"),
    ("病毒性脑膜炎", "化脓性脑膜炎"),
    ("二尖瓣狭窄", "二尖瓣关闭不全"),
    ("乙型肝炎", "丙型肝炎"),
    ("排除肺结核", "肺结核"),
    ("肺结核可能性小", "肺结核"),
    ("无急性阑尾炎", "急性阑尾炎"),
    ("肺结核依据不足，考虑肺炎", "肺结核"),
]

WRONG = [
    ("急性胰腺炎", "急性阑尾炎"),
    ("", "急性阑尾炎"),
    ("   \n", "急性阑尾炎"),
    ("<think>急性阑尾炎", "急性阑尾炎"),
    ("???", "急性阑尾炎"),
]


@pytest.mark.parametrize(("answer", "reference"), SAME)
def test_the_same_diagnosis_in_other_words_is_exact(answer, reference):
    found = grade(answer, reference)
    assert found.exact and found.principal and found.decided and found.f1 == 1.0


@pytest.mark.parametrize(("answer", "reference"), DANGEROUS)
def test_a_dangerous_near_miss_counts_nothing(answer, reference):
    found = grade(answer, reference)
    assert not found.exact and not found.principal
    assert found.f1 == 0.0
    assert found.decided


@pytest.mark.parametrize(("answer", "reference"), WRONG)
def test_a_wrong_or_missing_answer_is_decided(answer, reference):
    found = grade(answer, reference)
    assert (found.exact, found.principal, found.f1, found.decided) == (False, False, 0.0, True)


@pytest.mark.parametrize(
    ("answer", "reference", "relation"),
    [
        ("阑尾炎", "急性阑尾炎", Relation.MORE_GENERAL),
        ("肺部感染", "社区获得性肺炎", Relation.MORE_GENERAL),
        ("胃癌", "胃窦腺癌", Relation.MORE_GENERAL),
        ("颅内肿瘤", "脑膜瘤", Relation.MORE_GENERAL),
        ("下肢静脉血栓", "左下肢深静脉血栓形成", Relation.MORE_GENERAL),
        ("胎膜早破", "G1P0 孕38周 胎膜早破", Relation.MORE_GENERAL),
        ("多发性骨髓瘤", "多发性骨髓瘤 IgG κ型", Relation.MORE_GENERAL),
    ],
)
def test_a_more_general_name_is_undecided_and_counts_in_part(answer, reference, relation):
    found = grade(answer, reference)
    assert found.relation is relation
    assert found.verdict == "undecided"
    assert 0 < found.f1 < 1


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("急性化脓性阑尾炎", "急性阑尾炎"),
        ("右侧输尿管结石", "输尿管结石"),
        ("重症肺炎", "肺炎"),
        ("弥漫大B细胞淋巴瘤", "淋巴瘤"),
        ("L4-5椎间盘突出", "椎间盘突出"),
    ],
)
def test_a_more_specific_name_is_right_though_not_exact(answer, reference):
    found = grade(answer, reference)
    assert (found.relation, found.verdict) == (Relation.MORE_SPECIFIC, "right")
    assert not found.exact and 0.9 < found.f1 < 1


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("嗜酸性肉芽肿性多血管炎", "肉芽肿性多血管炎"),
        ("肝转移癌", "原发性肝癌"),
        ("肺继发恶性肿瘤", "肺癌"),
        ("LSIL", "高级别鳞状上皮内病变"),
        ("CKD5期", "慢性肾脏病3期"),
        ("复杂性热性惊厥", "单纯性热性惊厥"),
        ("两个或更多手指截断", "两个或更多足趾的切断"),
        ("压力性尿失禁(轻度)", "寻常痤疮(轻度)"),
        ("支气管哮喘", "妊娠合并支气管哮喘"),
        ("创伤性蛛网膜下腔出血", "蛛网膜下腔出血"),
        ("分娩伴会阴裂伤", "分娩伴会阴血肿"),
    ],
)
def test_what_only_looks_more_specific_is_not_right(answer, reference):
    assert grade(answer, reference).verdict != "right"


@pytest.mark.parametrize(
    ("answer", "reference"),
    [("高血压2级", "高血压3级"), ("肺腺癌IV期", "肺腺癌（IIIA期）")],
)
def test_another_stage_is_wrong_and_counts_in_part(answer, reference):
    found = grade(answer, reference)
    assert (found.relation, found.verdict) == (Relation.OTHER_STAGE, "wrong")
    assert 0 < found.f1 < 1


@pytest.mark.parametrize(
    ("answer", "reference"),
    [("肺炎", "肺癌"), ("胃溃疡", "十二指肠溃疡"), ("肾结石", "膀胱结石"), ("胃癌", "胃炎")],
)
def test_another_organ_or_another_lesion_is_wrong(answer, reference):
    assert grade(answer, reference).verdict == "wrong"


@pytest.mark.parametrize(
    ("answer", "reference", "relation"),
    [
        ("双相情感障碍抑郁发作", "双相障碍", Relation.PART),
        ("Xanthogranulomatous whatever", "急性胆囊炎", Relation.UNCLEAR),
        ("病毒性心肌炎", "急性心肌炎", Relation.UNCLEAR),
    ],
)
def test_what_the_rules_cannot_tell_is_left_to_a_judge(answer, reference, relation):
    found = grade(answer, reference)
    assert found.relation is relation
    assert not found.principal and not found.decided
    assert 0 < found.f1 < 1


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("脑出血（左侧基底节）", "左侧基底节区脑出血"),
        ("非霍奇金淋巴瘤（弥漫大B细胞型）", "弥漫大B细胞淋巴瘤"),
        ("急性胆囊炎；胆囊结石", "急性结石性胆囊炎"),
        ("慢性胃炎伴糜烂", "慢性糜烂性胃炎"),
        ("冠心病，不稳定型心绞痛", "不稳定型心绞痛"),
        ("闭合性颅脑损伤：硬膜外血肿（右颞）", "右颞部硬膜外血肿"),
        ("犬吠样咳嗽、声音嘶哑，符合急性喉炎（Ⅱ度喉梗阻）。", "急性喉炎"),
        ("尽管需要与肺栓塞鉴别，但心电图支持急性心包炎。", "急性心包炎"),
        ("患者的诊断不是肺结核，而是肺癌。", "肺癌"),
        ("急性有机磷农药中毒", "有机磷中毒"),
        ("宫颈癌IIB期", "宫颈癌"),
        ("G2P1，宫内孕39+2周，LOA，单活胎；妊娠期糖尿病", "妊娠期糖尿病"),
        ("从影像上看更像是肺结核。", "肺结核"),
        ("患者的表现与甲状腺功能减退症一致。", "甲状腺功能减退症"),
        ("患者为亚急性联合变性，由维生素B12缺乏引起。", "亚急性联合变性"),
        ("这是一种自身免疫性疾病，具体为系统性硬化症", "系统性硬化症"),
        ("胸痛主要由胃食管反流病引起，而非冠心病。", "胃食管反流病"),
        ("心肌酶正常，可排除急性心肌梗死；考虑肋软骨炎", "肋软骨炎"),
        ("急性心包炎（病毒性可能）", "急性病毒性心包炎"),
        ("Guillain-Barré综合征", "吉兰-巴雷综合征"),
        ("Haemophilia A", "血友病A"),
        ("肝硬化併發食道靜脈曲張", "肝硬化伴食管静脉曲张"),
        ("第二型糖尿病", "2型糖尿病"),
        ("J18.900 肺炎", "肺炎"),
        ("l.急性胰腺炎 2.胆囊结石", "急性胰腺炎；胆囊结石"),
        ("慢性肾功能不全 CKDⅤ期", "慢性肾脏病5期"),
        ("发热原因待查（感染性心内膜炎可能性大）", "感染性心内膜炎"),
        ("不像是哮喘，倒像慢阻肺", "慢性阻塞性肺疾病"),
        ("结肠癌肝转移", "结肠癌"),
        ("胃癌（cT2aN0M0）", "胃癌"),
        ("急性髓系白血病M5", "急性单核细胞白血病"),
        ("结石性胆囊炎急性发作", "急性结石性胆囊炎"),
        ("关节痛、面部红斑——系统性红斑狼疮", "系统性红斑狼疮"),
        ("最先想到的是病毒性感冒，但结合胸片，肺炎更有可能。", "肺炎"),
        ("Acute STEMI of the inferior wall", "急性下壁ST段抬高型心肌梗死"),
    ],
)
def test_what_is_said_in_other_places_is_the_same(answer, reference):
    assert grade(answer, reference).principal


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("糖尿病", "糖尿病引起的肾病"),
        ("甲亢", "甲亢所致的心肌病"),
        ("克罗恩病（结肠型）", "克罗恩病[局限性肠炎]引起的关节病"),
        ("肾造瘘术后（左）", "肾术后"),
        ("肺曲霉病（拟诊）", "肺病"),
        ("急性白血病", "急性白血病伴缓解"),
    ],
)
def test_a_cause_a_bracket_beside_the_point_or_no_remission_leaves_it_open(answer, reference):
    assert grade(answer, reference).verdict == "undecided"


@pytest.mark.parametrize("answer", ["糖尿病肾病", "糖尿病引起的肾病"])
def test_what_another_disease_causes_is_known_by_both(answer):
    assert grade(answer, "糖尿病导致的肾病").verdict == "right"


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("输尿管结石（左）", "输尿管结石（右）"),
        ("糖尿病（1型）", "2型糖尿病"),
        ("急性阑尾炎（急性胃肠炎依据不足）", "急性胃肠炎"),
        ("暂不能诊断为糖尿病", "糖尿病"),
        ("没有足够证据支持肺结核的诊断", "肺结核"),
        ("二度I型房室传导阻滞", "二度II型房室传导阻滞"),
        ("酒精性肝硬化", "乙型肝炎肝硬化"),
        ("胃溃疡并出血", "十二指肠溃疡并出血"),
        ("右肾结石伴肾积水", "左肾结石伴肾积水"),
    ],
)
def test_another_of_the_same_kind_counts_nothing(answer, reference):
    found = grade(answer, reference)
    assert (found.principal, found.decided, found.f1) == (False, True, 0.0)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("病毒性心肌炎可能性大，但不排除急性心肌梗死。", "急性心肌梗死"),
        ("首先考虑急性胆囊炎，其次考虑急性胰腺炎。", "急性胰腺炎"),
        ("多发性硬化，视神经脊髓炎谱系疾病也不能完全排除。", "视神经脊髓炎谱系疾病"),
        ("考虑以下几种可能：1. 肺结核（可能性最大）；2. 肺癌；3. 肺脓肿。", "肺脓肿"),
    ],
)
def test_what_is_only_kept_in_mind_behind_another_is_no_answer(answer, reference):
    found = grade(answer, reference)
    assert (found.principal, found.decided) == (False, True)


def test_a_longer_list_gains_nothing():
    assert grade("急性胆囊炎；急性胰腺炎；急性阑尾炎", "急性阑尾炎").principal is False
    assert grade("急性阑尾炎；急性胰腺炎", "急性阑尾炎").principal is True
    assert grade("高血压；急性脑梗死", "急性脑梗死；高血压").exact is True


def test_soft_f1_orders_answers_as_a_physician_would():
    reference = "急性脑梗死；2型糖尿病"
    answers = [
        "急性脑梗死；2型糖尿病",
        "急性脑梗死",
        "脑梗死",
        "急性脑梗死；肺炎；胃炎；肾炎；肠炎",
        "慢性胃炎",
    ]
    scores = [grade(answer, reference).f1 for answer in answers]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(scores)


def test_prose_that_mentions_the_diagnosis_is_undecided():
    prose = "这位病人的情况比较复杂而且病程很长所以需要从多个系统来看并且其中急性阑尾炎这一点也曾经被外科的医生们反复讨论过很多次"
    prose += "最后还是没有能够得出一个令所有人都满意的结论来"
    found = grade(prose, "急性阑尾炎")
    assert not found.decided and not found.principal and 0 < found.f1 < 1


def test_enumerations_that_share_their_head_stay_whole():
    assert [d.text for d in split_list("肝、肾囊肿")] == ["肝、肾囊肿"]
    assert [d.text for d in split_list("慢性胃炎、胆囊结石")] == ["慢性胃炎", "胆囊结石"]


def test_the_diagnoses_end_where_advice_begins():
    answer = "诊断：\n1. 肺炎\n2. 胸腔积液\n治疗建议：\n1. 抗感染\n2. 吸氧"
    assert [d.text for d in extract_diagnoses(answer)] == ["肺炎", "胸腔积液"]


PIECES = st.sampled_from(
    [
        "诊断为",
        "急性",
        "阑尾炎",
        "考虑",
        "可能的",
        "最",
        "1.",
        "；",
        "、",
        "\n",
        "(",
        ")",
        "不",
        "无",
        "<think>",
        "</think>",
        "Ⅱ型",
        "倾向",
        "of",
    ]
)


@settings(deadline=None)
@given(
    st.text(max_size=60) | st.lists(PIECES, max_size=30).map("".join),
    st.text(max_size=30) | st.lists(PIECES, max_size=8).map("".join),
)
def test_any_two_texts_have_a_grade(answer, reference):
    found = grade(answer, reference)
    assert 0 <= found.f1 <= 1
    assert found.decided or not found.principal
    assert not found.exact or found.principal


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(["急性阑尾炎", "2型糖尿病", "高血压3级", "右侧胸腔积液", "IgA肾病"]),
        min_size=1,
        max_size=4,
        unique=True,
    )
)
def test_a_reference_answers_itself(diagnoses):
    assert grade("；".join(diagnoses), "；".join(reversed(diagnoses))).exact


@pytest.mark.parametrize(
    "piece",
    ["考虑", "诊断为", "1.", "最可能的", "可能", "倾向", "(", "most likely ", "急性阑尾炎；"],
)
def test_of_a_hundred_thousand_characters_the_two_ends_are_read(piece):
    text = piece * (100_000 // len(piece))
    assert grade(text, "急性阑尾炎") == grade(f"{text[:2000]}\n{text[-2000:]}", "急性阑尾炎")


@pytest.mark.parametrize(
    "written",
    [
        "<p><b>肺炎</b></p>",
        "肺炎&nbsp;",
        "&lt;b&gt;肺炎&lt;/b&gt;",
        "$\\text{肺炎}$",
        "\\(\\boxed{\\text{肺炎}}\\)",
        '<p style="font-size: 14px; color: #333333">肺炎</p>',
        "[肺炎](https://example.org/wiki/肺炎_(疾病))",
        "<script>alert(1)</script>肺炎",
        "# 诊断\n- 肺炎",
    ],
)
def test_markup_around_a_name_changes_nothing_on_either_side(written):
    assert grade("肺炎", written).exact and grade(written, "肺炎").exact
    assert grade("胃炎", written).relation == Relation.DIFFERENT == grade(written, "胃炎").relation


def test_a_name_is_told_from_the_code_of_a_sign():
    assert grade("COPD、肺炎", "COPD &amp; 肺炎").exact
    assert [d.text for d in extract_diagnoses("诊断：1. 血小板&lt;50的紫癜")] == [
        d.text for d in extract_diagnoses("诊断：1. 血小板<50的紫癜")
    ]


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("C4-6椎间盘突出", "腰椎间盘突出症"),
        ("颈5/6椎间盘突出", "腰椎间盘突出"),
        ("肝内胆结石", "胆囊结石"),
        ("中枢性面神经麻痹", "特发性面神经麻痹"),
        ("成人缺氧缺血性脑病", "新生儿缺氧缺血性脑病"),
        ("结核性弥漫性腹膜炎", "急性弥漫性腹膜炎"),
        ("下肢脉管炎", "血栓闭塞性脉管炎"),
        ("蛇咬伤", "毒蛇咬伤"),
        ("神经纤维瘤", "神经纤维瘤病"),
        ("肺结节", "肺结节病"),
        ("陈旧性心肌梗死", "心肌梗死"),
        ("肺结核（陈旧性）", "肺结核"),
        ("急性胰腺炎后假性囊肿", "急腹症"),
        ("胆囊结石手术史", "胆石症"),
        ("Primary mediastinal large B-cell lymphoma (non-Hodgkin)", "Classical Hodgkin lymphoma"),
        ("Pneumonia (non-bacterial)", "Bacterial pneumonia"),
        ("Aseptic meningitis", "Septic meningitis"),
        ("Nondisplaced femoral neck fracture", "Displaced femoral neck fracture"),
    ],
)
def test_what_may_be_another_disease_is_not_right(answer: str, reference: str) -> None:
    assert not grade(answer, reference).principal


def test_a_number_before_a_name_that_begins_with_a_figure_is_no_part_of_it() -> None:
    assert grade("（1）21三体综合征", "21三体综合征").principal


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("L4/5椎间盘突出", "腰椎间盘突出症"),
        ("C5/6椎间盘突出", "颈椎间盘突出症"),
        ("特发性面神经麻痹", "面神经麻痹"),
        ("新生儿缺氧缺血性脑病（中度）", "HIE"),
        ("胆囊结石", "胆石症"),
        ("尿路结石病", "尿路结石"),
    ],
)
def test_a_kind_of_the_known_disease_is_right(answer: str, reference: str) -> None:
    assert grade(answer, reference).principal
