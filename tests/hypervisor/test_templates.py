"""What makes clones differ by the user's wish: names, variables, templates, sizes."""

import json
import shlex
import string
import xml.etree.ElementTree as ET

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from engine import errors
from hypervisor import domain, hardware, variables
from hypervisor.patterns import expand
from hypervisor.template import Template
from hypervisor.wishes import network_template, user_data_template
from service.clone_plan import plan_of
from service.clone_spec import CloneSpec

LINES = st.text(st.characters(codec="utf-8").filter(str.isprintable), max_size=30)


@pytest.mark.parametrize(
    ("pattern", "fields", "expected"),
    [
        ("web-{n}", {"n": 7}, "web-7"),
        ("web-{n:03d}", {"n": 7}, "web-007"),
        ("web-{n:03}", {"n": 7}, "web-007"),
        ("web-{n:x}", {"n": 255}, "web-ff"),
        ("{site}-{rack:02d}", {"n": 1, "site": "fra", "rack": "4"}, "fra-04"),
        ("{site}-{rack:02d}", {"n": 1, "site": "fra", "rack": 4}, "fra-04"),
        ("plain", {"n": 1}, "plain"),
    ],
)
def test_a_pattern_has_python_s_form(
    pattern: str, fields: dict[str, int | str], expected: str
) -> None:
    assert expand(pattern, fields) == expected
    if not any(isinstance(value, str) for value in fields.values()):
        assert expand(pattern, fields) == pattern.format(**fields)


@pytest.mark.parametrize(
    "pattern",
    [
        "{n.__class__}", "{n[0]}", "{n!r}", "{n:{n}}", "{n:0999d}", "{n:100000000d}", "{}", "{0}",
        "{m}", "{n", "n}", "{n:,}", "{n:+d}", "{n:f}", "{site:02d}", "{up}", "{slash}", "{space}",
        "{empty}", "{n:*>9}",
    ],
)  # fmt: skip
def test_a_pattern_cannot_do_more(pattern: str) -> None:
    fields = {"n": 1, "site": "fra", "up": "..", "slash": "a/b", "space": "a b", "empty": ""}
    if pattern == "{up}":  # dots alone are no VM name either
        with pytest.raises(errors.InvalidArgument):
            plan_of(CloneSpec(rows=[{"up": ".."}]), "lab:/{up}")
        return
    with pytest.raises(errors.InvalidArgument):
        expand(pattern, fields)


def test_variables_come_from_csv_and_from_json_alike() -> None:
    from_csv = variables.read(
        'site,address,note\nfra,10.0.0.1,"a, ""b"""\n\nams,10.0.0.2,\n', "v.csv"
    )
    from_json = variables.read(json.dumps(from_csv), "v.json")
    assert from_csv == from_json
    assert from_csv[0] == {"site": "fra", "address": "10.0.0.1", "note": 'a, "b"'}
    assert variables.read('[{"cpus": 4, "on": true}]', "v.json") == [{"cpus": 4, "on": True}]
    assert variables.read("\ufeffa\r\n1\r\n", "excel.csv") == [{"a": "1"}]


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("a,b\n1,2\n3\n", "v.csv", r"row 2 \(line 3\) has 1 values for 2 columns"),
        ("a,b\n1,2\n3,4,5\n", "v.csv", "row 2"),
        ('a\n"x\n', "v.csv", "no CSV"),
        ('a\n"x\ny"\n', "v.csv", "row 1.*one line"),
        ("a,a\n1,2\n", "v.csv", "same name"),
        ("a b\n1\n", "v.csv", "column name"),
        ("mac\n1\n", "v.csv", "rename"),
        ("mac2\n1\n", "v.csv", "rename"),
        ("a\n", "v.csv", "no rows"),
        ("", "v.csv", "no rows"),
        ("{}", "v.json", "list"),
        ("[1]", "v.json", "row 1"),
        ('[{"a": 1}, {"b": 1}]', "v.json", "row 2"),
        ('[{"a": 1}, {"a": 1.5}]', "v.json", "row 2: a must"),
        ('[{"a": null}]', "v.json", "row 1: a must"),
        ('[{"a": {}}]', "v.json", "row 1: a must"),
        ('[{"a": 1, "a": 2}]', "v.json", "twice"),
        ("[" * 100_000, "v.json", "no JSON"),
        ("a\n" + "x" * 5000, "v.csv", "row 1"),
        ("a\nx\0y\n", "v.csv", "row 1|no CSV"),
    ],
)
def test_bad_variables_are_told_with_their_row(text: str, name: str, said: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=said):
        variables.read(text, name)


def test_unknown_variables_are_named() -> None:
    made = Template("user-data", "{{ x }} {{ name }} {{y|tojson}}", is_yaml=False)
    with pytest.raises(errors.InvalidArgument, match=r"needs x, y; there is name"):
        made.render({"name": "web"})
    with pytest.raises(errors.InvalidArgument, match="filter 'upper'"):
        Template("user-data", "{{ x | upper }}", is_yaml=False)


def test_what_is_not_ours_stays() -> None:
    text = "#!/bin/sh\necho $HOME ${x} {n} {{ ds.meta_data.x }} {{.ID}} {{}} %s $$\n"
    assert user_data_template(text).render({}) == text
    jinja = "## template: jinja\n#cloud-config\n{% if v1.x %}a: {{ v1.x }}{% endif %}\n"
    assert user_data_template(jinja).render({}) == jinja


@given(LINES)
def test_tojson_is_right_for_any_text(value: str) -> None:
    made = user_data_template("#cloud-config\nkey: {{ x | tojson }}\n{{ x | tojson }}: [1]\n")
    assert yaml.safe_load(made.render({"x": value})) == {"key": value, value: [1]}


@given(LINES)
def test_a_plain_value_is_text_or_a_number_or_refused(value: str) -> None:
    made = user_data_template("#cloud-config\nkey: {{ x }}\nlist: [a, '{{ x }}', b]\n# {{ x }}\n")
    try:
        found = yaml.safe_load(made.render({"x": value}))
    except errors.InvalidArgument:
        return
    assert found["list"] == ["a", value, "b"]
    assert str(found["key"]) == value
    assert type(found["key"]) in (str, int)
    assert list(found) == ["key", "list"]


@pytest.mark.parametrize(
    "value",
    ["no", "0123", "22:22", "1e3", "1.10", "~", "", "null", "a: b", "x # y", "- a", "[", "*a",
     "2024-01-01", "52:54:00:12:34:56"],
)  # fmt: skip
def test_what_yaml_would_misread_is_refused_with_the_way_out(value: str) -> None:
    made = network_template("version: 2\nkey: {{ x }}\n")
    if value == "1e3":  # YAML 1.1, as PyYAML and so cloud-init read it, says that this is text
        assert yaml.safe_load(made.render({"x": value}))["key"] == "1e3"
        return
    with pytest.raises(errors.InvalidArgument, match=r"\{\{ x \| tojson \}\}"):
        made.render({"x": value})
    quoted = network_template("version: 2\nkey: {{ x | tojson }}\n")
    assert yaml.safe_load(quoted.render({"x": value}))["key"] == value


@given(LINES)
def test_quote_is_one_word_of_a_shell(value: str) -> None:
    made = user_data_template("#!/bin/sh\necho {{ x | quote }} end\n").render({"x": value})
    assert shlex.split(made.splitlines()[1]) == ["echo", value, "end"]


@pytest.mark.parametrize(
    "text", ["", "users: []", "#cloud-config\na: [", "#cloud-config\na: b: {{ x }}\n"]
)
def test_user_data_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidArgument):
        user_data_template(text)


def test_network_config_is_asked_for_its_version() -> None:
    network_template("network:\n  version: 1\n")
    for text in ("ethernets: {}\n", "[]", "version"):
        with pytest.raises(errors.InvalidArgument):
            network_template(text)


def test_a_plan_has_one_clone_for_each_row() -> None:
    rows = variables.read("site,ip\nfra,10.0.0.1\nams,10.0.0.2\n", "v.csv")
    spec = CloneSpec(rows=rows, start=10, step=5, network="version: 2\nip: {{ ip }}\n")
    assert CloneSpec.of(spec.to_dict()) == spec
    plan = plan_of(spec, "lab:/{site}-{n:03d}")
    assert [item.address for item in plan.items] == ["lab:/fra-010", "lab:/ams-015"]
    assert plan.wishes(plan.items[1]).values == {"n": 15, "site": "ams", "ip": "10.0.0.2"}


@pytest.mark.parametrize(
    ("spec", "target", "said"),
    [
        ({"count": 2}, "lab:/web", "same name"),
        ({"count": 0}, "lab:/{n}", "count"),
        ({"count": 10**9}, "lab:/{n}", "count"),
        ({"count": 1, "step": 0}, "lab:/{n}", "step"),
        ({"count": 2, "rows": [{"a": "x"}]}, "lab:/{n}", "--var has 1 rows"),
        ({"rows": [{"a": "x"}, {"a": "x"}]}, "lab:/{a}", "same name"),
        ({"rows": [{"a": "x"}, {"a": "../y"}]}, "lab:/{a}", "row 2 of --var"),
        ({"rows": [{"a": "x"}], "user_data": "#!/bin/sh\n{{ b }}"}, "lab:/x", "needs b"),
        ({"rows": [{"a": "1"}, {"a": "a: b"}], "network": "version: 2\nx: {{ a }}"}, "lab:/x{n}",
         "row 2 of --var: network: a value"),
        ({"network": "version: 2\nx: {{ mac }}"}, "lab:/x", r"mac \| tojson"),
        ({"vcpus": 0}, "lab:/x", "virtual CPUs"),
        ({"memory_bytes": 1000}, "lab:/x", "memory"),
        ({"disk_bytes": 1000}, "lab:/x", "sectors"),
        ({"surprise": 1}, "lab:/x", "specification"),
        ({"via": "magic"}, "lab:/x", "specification"),
    ],
)  # fmt: skip
def test_a_bad_plan_is_refused_before_anything_is_made(
    spec: dict[str, object], target: str, said: str
) -> None:
    with pytest.raises(errors.InvalidArgument, match=said):
        plan_of(CloneSpec.of(spec), target)


def sized(more: str = "", memory: int | None = None, vcpus: int | None = None) -> ET.Element:
    root = domain.parse(
        f"<domain><name>a</name><memory unit='GiB'>1</memory><currentMemory unit='MiB'>512"
        f"</currentMemory><vcpu current='1'>2</vcpu>{more}</domain>".encode()
    )
    hardware.resize(root, memory, vcpus)
    return root


def test_memory_and_cpus_are_set_now_and_at_most() -> None:
    root = sized(
        "<vcpus><vcpu id='0' enabled='yes'/></vcpus><cpu><topology sockets='1' cores='2' "
        "threads='2'/></cpu><cputune><vcpupin vcpu='0' cpuset='0'/><vcpupin vcpu='9' cpuset='1'/>"
        "</cputune>", 2 << 30, 8,
    )  # fmt: skip
    assert root.findtext("memory") == root.findtext("currentMemory") == str(2 << 20)
    assert (root.findtext("vcpu"), root.find("vcpu[@current]")) == ("8", None)
    topology = root.find("cpu/topology")
    assert topology is not None
    assert topology.attrib == {"sockets": "2", "cores": "2", "threads": "2"}
    assert [pin.get("vcpu") for pin in root.iterfind("cputune/vcpupin")] == ["0"]
    assert root.find("vcpus") is None


@pytest.mark.parametrize(
    ("more", "memory", "vcpus"),
    [
        ("<cpu><numa><cell id='0' cpus='0-1' memory='1048576'/></numa></cpu>", 1 << 30, None),
        ("<cpu><numa/></cpu>", None, 4),
        ("<cpu><topology sockets='1' cores='4' threads='1'/></cpu>", None, 6),
        ("<maxMemory slots='2' unit='GiB'>2</maxMemory>", 3 << 30, None),
        ("<maxMemory slots='2' unit='bogus'>2</maxMemory>", 1 << 30, None),
    ],
)
def test_what_cannot_be_resized_is_refused(
    more: str, memory: int | None, vcpus: int | None
) -> None:
    with pytest.raises(errors.InvalidArgument):
        sized(more, memory, vcpus)


def test_the_boot_disk_is_the_first_or_the_one_ordered_first() -> None:
    disk = "<disk type='file' device='{}'><source file='{}'/>{}</disk>"
    root = sized(
        "<devices>" + disk.format("cdrom", "c", "<boot order='1'/>") + disk.format("disk", "a", "")
        + disk.format("disk", "b", "<boot order='2'/>") + "</devices>"
    )  # fmt: skip
    assert hardware.boot_disk(root)[1].get("file") == "b"
    with pytest.raises(errors.InvalidArgument):
        hardware.boot_disk(sized("<devices/>"))


@given(st.text(string.printable, max_size=40))
def test_any_pattern_gives_a_plain_name_or_an_error(pattern: str) -> None:
    try:
        plan = plan_of(CloneSpec(), "lab:/" + pattern)
    except errors.InvalidArgument:
        return
    assert set(plan.items[0].name) <= set(string.ascii_letters + string.digits + "_.+-")
