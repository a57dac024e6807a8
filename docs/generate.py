"""Makes the reference from the code: ``python -m docs.generate`` writes what is not as it should be.

The pages are kept beside the others, so that links lead to them and people read them without a build; a test compares
them with what this makes. Nothing here asks the network, the disk or the clock.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import functools
import inspect
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from cachesync import ArtifactStore, Client
from cachesync.api.agents import ANSWERED
from cachesync.api.routes import Routes
from cachesync.cli.arguments import COMMANDS, SETTING, build_parser
from cachesync.cli.entry import INTERRUPTED, OUTPUT_CLOSED
from cachesync.config import SETTINGS, load
from cachesync.model.errors import ExitCode
from cachesync.model.events import Event, What
from cachesync.programs.client import ClientArtifacts
from cachesync.programs.mcp_server.build import build_server
from cachesync.programs.mcp_server.scope import Scope
from docs import told
from docs.samples import ANSWERS, ERROR

DOCS = Path(__file__).resolve().parent
MADE = "<!-- Made from the code by python -m docs.generate: change the code, or docs/told.py. -->"
WIDTH = 110


def main() -> None:
    """Write the pages that changed."""
    for name, text in pages().items():
        place = DOCS / name
        place.parent.mkdir(exist_ok=True)
        if not place.exists() or place.read_text("utf-8") != text:
            place.write_text(text, "utf-8")


def pages() -> dict[str, str]:
    """The text of each page, by its name below docs/."""
    made = {"cli": cli(), "settings": settings(), "http": http(), "mcp": mcp(), "python": python()}
    return {f"reference/{name}.md": "\n".join((MADE, "", *lines)).rstrip() + "\n" for name, lines in made.items()}


# -- the command line --------------------------------------------------------------------------------------------------


def cli() -> Iterator[str]:
    """Every command: what it does, its options, its exit codes and its JSON."""
    same(told.COMMANDS, COMMANDS)
    codes = {*map(int, ExitCode), INTERRUPTED, OUTPUT_CLOSED}
    same(told.EXIT_CODES, codes)
    yield from ("# Commands", "", "```", "cachesync [SETTING]... COMMAND ...", "```", "")
    yield from (told.CLI, "", "## Exit codes", "")
    yield from table(("exit code", "means"), [(str(code), words) for code, words in told.EXIT_CODES.items()])
    yield from ("", "## JSON", "", told.JSON, "")
    yield from shown(ERROR)
    parser = build_parser()
    (choices,) = (action.choices for action in parser._actions if isinstance(action.choices, dict))  # noqa: SLF001
    for name, command in COMMANDS.items():
        yield from ("", f"## cachesync {name}", "", f"{command.summary[0].upper()}{command.summary[1:]}.", "")
        yield from _command(name, choices[name])


def _command(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    actions = [action for action in parser._actions if not action.dest.startswith(SETTING) and action.dest != "help"]  # noqa: SLF001
    words = [_place(action) for action in actions if not action.option_strings]
    options = [action for action in actions if action.option_strings]
    yield from ("```", " ".join(["cachesync", name, *words, *["[OPTION]..."][: len(options)]]), "```", "")
    if told.COMMANDS[name]:
        yield from (told.COMMANDS[name], "")
    rows = [(_spelt(action), _helped(action)) for action in [*(a for a in actions if a not in options), *options]]
    rows = [(code(spelt), helped) for spelt, helped in rows]
    if rows:
        yield from table(("option", ""), rows)
    if name in ANSWERS:
        yield from ("", f"`{name} --json`:", "")
        yield from shown(ANSWERS[name])


def _place(action: argparse.Action) -> str:
    name = _value(action)
    return {"?": f"[{name}]", "*": f"[{name}]...", "+": f"{name}..."}.get(str(action.nargs or ""), name)


def _value(action: argparse.Action) -> str:
    if action.choices is not None:
        return "|".join(map(str, action.choices))
    return str(action.metavar or action.dest)


def _spelt(action: argparse.Action) -> str:
    if not action.option_strings:
        return _value(action)
    value = "" if action.nargs == 0 else f" {_value(action)}"
    return ", ".join(action.option_strings) + value


def _helped(action: argparse.Action) -> str:
    return (action.help or "") % {"default": action.default}


def shown(answer: Any) -> Iterator[str]:
    """An answer as a block of JSON, no wider than a page."""
    yield "```json"
    yield from _laid(answer, "", "")
    yield "```"


def _laid(value: Any, indent: str, before: str, after: str = "") -> Iterator[str]:
    flat = json.dumps(value)
    if not isinstance(value, dict | list) or len(indent + before + flat + after) <= WIDTH:
        yield f"{indent}{before}{flat}{after}"
        return
    opens, closes = "{}" if isinstance(value, dict) else "[]"
    yield f"{indent}{before}{opens}"
    rows = (
        [(f"{json.dumps(k)}: ", v) for k, v in value.items()] if isinstance(value, dict) else [("", v) for v in value]
    )
    for number, (name, inner) in enumerate(rows, 1):
        yield from _laid(inner, indent + "  ", name, "," if number < len(rows) else "")
    yield f"{indent}{closes}{after}"


# -- settings ----------------------------------------------------------------------------------------------------------


def settings() -> Iterator[str]:
    """Every setting: its names, what is allowed, its default."""
    same(told.SETTINGS, SETTINGS, some=True)
    yield from ("# Settings", "", told.ORDER, "")
    config = load({}, {"HOME": "/home/me"}, Path("/w"), system_file=Path("/none"))
    known = {source.name: source.value for source in config.sources()}
    rows = []
    for setting in SETTINGS.values():
        default = setting.default or known[setting.name].replace(f"{known['state']}/", "STATE/")
        default = default.replace(known["root"], "ROOT").replace("/home/me", "~")
        words = f"{setting.help[0].upper()}{setting.help[1:]}. {told.SETTINGS.get(setting.name, '')}".strip()
        names = "<br>".join(map(code, (setting.name, *setting.environment)))
        rows.append((names, code(default) if default else "none", f"{words}<br>Allowed: {setting.kind.allowed}."))
    yield from table(("setting, and its environment variables", "default", "what it is"), rows)
    yield from ("", told.CREDENTIALS, "", told.JOURNAL)


# -- HTTP --------------------------------------------------------------------------------------------------------------


def http() -> Iterator[str]:
    """Every route: what it takes and answers."""
    routes = asyncio.run(_routes())
    by_name = {_named(route.method, route.path): route for route in routes}
    same(told.ROUTES, by_name, some=True)
    yield from ("# The control API", "", told.HTTP, "", told.CURL, "", told.OPTIONS, "")
    rows = []
    for name, route in by_name.items():
        words = told.ROUTES.get(name) or inspect.cleandoc(route.handler.__doc__ or "").partition("\n\n")[0]
        words = " ".join(words.split()).replace("``", "`")
        rows.append((code(name), ", ".join(map(code, _options(route))), words))
    yield from table(("route", "query", "answers"), rows)
    yield from ("", "## The agents' socket", "", told.AGENTS, "")
    answered = [(code(_named(*route)), told.ANSWERED[kind]) for route, kind in ANSWERED.items()]
    yield from table(("route", "of what"), answered)
    yield from ("", "## Events", "", told.EVENTS, "")
    yield from table(("event", ""), [(code(str(what)), _kind(what)) for what in What])
    yield from ("", inspect.cleandoc(Event.__doc__ or "").replace("``", "`"), "", "```", *_event(), "```")


def _kind(what: What) -> str:
    """What is written below the kind in its class."""
    (kinds,) = ast.parse(inspect.getsource(What)).body
    body = kinds.body if isinstance(kinds, ast.ClassDef) else []
    for node, after in itertools.pairwise(body):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == what.name and isinstance(after, ast.Expr):
            return " ".join(str(ast.literal_eval(after.value)).split())
    raise ValueError(f"nothing is said of {what}")


def _event() -> Iterator[str]:
    stored = Event(What.STORED, 1795526656.1, "demo", "a/b.txt", size=123, seconds=0.0312, sent=True, complete=True)
    yield f"event: {stored.what}"
    yield f"data: {json.dumps(stored.json())}"


async def _routes() -> list[web.RouteDef]:
    routes = Routes(None, lambda: True, lambda: True)  # type: ignore[arg-type]  # nothing is asked
    return list(routes.table())


def _named(method: str, path: str) -> str:
    return f"{method} " + re.sub(r"{(\w+):[^}]*}\??", r"{\1}", path)


def _options(route: web.RouteDef) -> list[str]:
    source = inspect.getsource(route.handler)
    found = ["session"] if "_session_asked(" in source else []
    for words in re.findall(r"\bquery\(request((?:, \"\w+\")*)\)", source):
        found += re.findall(r"\"(\w+)\"", words)
    return list(dict.fromkeys(found))


# -- MCP ---------------------------------------------------------------------------------------------------------------


def mcp() -> Iterator[str]:
    """Every tool, with its arguments, and the fields of its answer."""
    server = build_server(lambda: None, Scope("s1"))  # type: ignore[arg-type, return-value]  # no tool is called
    yield from ("# MCP tools", "", told.MCP)
    for tool in asyncio.run(server.list_tools()):
        yield from ("", f"## {tool.name}", "", " ".join((tool.description or "").split()), "")
        required = tool.input_schema.get("required", [])
        rows = []
        for name, schema in tool.input_schema["properties"].items():
            default = "required" if name in required else code(json.dumps(schema.get("default")))
            rows.append((code(name), _type(schema), default, schema.get("description", "")))
        yield from table(("argument", "type", "default", ""), rows)
        fields = (tool.output_schema or {}).get("properties", {})
        yield from ("", f"Answers {', '.join(map(code, fields))}.")


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(map(code, schema["enum"]))
    kinds = [schema] if "type" in schema else schema.get("anyOf", [])
    return " or ".join(str(kind["type"]) for kind in kinds if kind.get("type") != "null")


# -- Python ------------------------------------------------------------------------------------------------------------


def python() -> Iterator[str]:
    """The two classes that programs import, with their methods."""
    yield from ("# Python", "", told.PYTHON)
    for kind in (Client, ClientArtifacts, ArtifactStore):
        yield from ("", f"## {kind.__name__}", "", _prose(kind))
        members = [kind.__init__, *(member for name, member in vars(kind).items() if not name.startswith("_"))]
        for member in members:
            if isinstance(member, property):
                yield from ("", f"### {member.fget.__name__}", "", _prose(member))  # type: ignore[union-attr]
            elif inspect.isfunction(member) and (member.__doc__ or kind is Client):
                name = kind.__name__ if member is kind.__init__ else member.__name__
                yield from ("", f"### {name}", "", "```", *_signature(name, member), "```", "", _prose(member))


def _signature(name: str, member: Callable[..., Any]) -> Iterator[str]:
    signature = inspect.signature(member)
    plain = functools.partial(re.sub, r"<function (\w+) at 0x[0-9a-f]+>", r"\1")
    parameters = [plain(str(one)) for one in signature.parameters.values() if one.name != "self"]
    star = next(
        (at for at, one in enumerate(list(signature.parameters.values())[1:]) if one.kind is one.KEYWORD_ONLY), None
    )
    if star is not None:
        parameters.insert(star, "*")
    made = name[0].isupper()
    answer = "" if made or signature.return_annotation == "None" else f" -> {signature.return_annotation}"
    flat = f"{name}({', '.join(parameters)}){answer}".replace("'", "")
    if len(flat) <= WIDTH:
        yield flat
        return
    yield f"{name}("
    yield from (f"    {one.replace(chr(39), '')}," for one in parameters)
    yield f"){answer}".replace("'", "")


def _prose(of: object) -> str:
    return inspect.cleandoc(of.__doc__ or "").replace("``", "`")


# -- the parts of a page -----------------------------------------------------------------------------------------------


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Rows of Markdown; what would be taken for a border is escaped."""
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def code(text: str) -> str:
    """As code."""
    return f"`{text}`"


def same(said: Any, real: Any, *, some: bool = False) -> None:
    """Raise ValueError if something is told of that the code does not have, or is missing."""
    extra, missing = set(said) - set(real), set() if some else set(real) - set(said)
    if extra or missing:
        raise ValueError(f"docs/told.py tells of {sorted(map(str, extra))} and not of {sorted(map(str, missing))}")


if __name__ == "__main__":
    main()
