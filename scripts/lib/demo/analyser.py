"""The demo's agent: analyses groups of source files, and streams what it finds."""

from __future__ import annotations

from dataclasses import asdict

from analysis import analyse

from agent import Agent, PlainRunContext

agent = Agent("analyser", slots=2)


@agent.handler("analyse", recover="journal", isolation="process")
def analyse_group(ctx: PlainRunContext, files: list[str]) -> dict[str, int]:
    """Analyse some files; every finding is an event, the counts are the result."""
    lines = functions = classes = findings = 0
    for file in files:
        report = analyse(file)
        for finding in report.findings:
            ctx.emit("finding", asdict(finding))
        facts = {"lines": report.lines, "functions": report.functions, "classes": report.classes}
        ctx.emit("file", {"file": file, **facts})
        lines += report.lines
        functions += report.functions
        classes += report.classes
        findings += len(report.findings)
    return {"files": len(files), "lines": lines, "functions": functions, "classes": classes, "findings": findings}
