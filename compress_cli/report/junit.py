"""The gates as JUnit XML, which every CI system shows as tests."""

from __future__ import annotations

from xml.etree import ElementTree

from compress_cli.report import Report
from compress_cli.report import figures as write


def render(report: Report) -> str:
    """One test a gate: a failure where it is not met or undecided, an error where it was not measured."""
    failed = [result for result in report.gates if not result.passes]
    unmeasured = [result for result in failed if result.outcome == "not measured"]
    name = write.printable(report.recipe)
    counts = {"tests": len(report.gates), "failures": len(failed) - len(unmeasured), "errors": len(unmeasured)}
    attributes = {"name": name, **{key: str(count) for key, count in counts.items()}, "time": f"{report.wall_time_s:.3f}"}
    suites = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(suites, "testsuite", attributes)
    for result in report.gates:
        row, message = write.printable(result.row), write.printable(write.gate(result))
        case = ElementTree.SubElement(
            suite, "testcase", name=write.printable(result.promise), classname=f"{name}.{row}", time="0"
        )
        if result.passes:
            ElementTree.SubElement(case, "system-out").text = message
        else:
            kind = "error" if result in unmeasured else "failure"
            ElementTree.SubElement(case, kind, message=message, type=result.outcome).text = message
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"
