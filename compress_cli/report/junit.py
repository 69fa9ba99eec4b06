"""The gates as JUnit XML, which every CI system shows as tests."""

from __future__ import annotations

from xml.etree import ElementTree

from compress_cli.report import Report
from compress_cli.report import figures as write


def render(report: Report) -> str:
    """One test a gate: a failure where it is not met or undecided, an error where it was not measured."""
    bad = [each for each in report.gates if not each.passes]
    unmeasured = [each for each in bad if each.outcome == "not measured"]
    name = write.printable(report.recipe)
    counts = {"tests": len(report.gates), "failures": len(bad) - len(unmeasured), "errors": len(unmeasured)}
    attributes = {"name": name, **{key: str(count) for key, count in counts.items()}, "time": f"{report.wall_time_s:.3f}"}
    suites = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(suites, "testsuite", attributes)
    for each in report.gates:
        row = write.printable(each.row)
        case = ElementTree.SubElement(
            suite, "testcase", name=write.printable(each.promise), classname=f"{name}.{row}", time="0"
        )
        said = write.printable(write.gate(each))
        if not each.passes:
            kind = "error" if each in unmeasured else "failure"
            ElementTree.SubElement(case, kind, message=said, type=each.outcome).text = said
        else:
            ElementTree.SubElement(case, "system-out").text = said
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"
