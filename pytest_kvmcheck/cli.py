"""The command ``kvmcheck``: everything around a run that needs no target."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pytest_kvmcheck import __version__, catalog, profiles
from pytest_kvmcheck.errors import KvmcheckError
from pytest_kvmcheck.probes import PROBES, Probe, probes_for
from pytest_kvmcheck.registry import Check, Severity
from pytest_kvmcheck.yamlfile import did_you_mean

USAGE_ERROR = 4


def _profiles(checks: Mapping[str, Check]) -> list[profiles.Profile]:
    return [profiles.load(name, checks) for name in profiles.shipped_profiles()]


def _list(options: argparse.Namespace) -> int:
    checks = catalog.load()
    profile = profiles.load(options.profile, checks) if options.profile else None
    area = options.area.upper() if options.area else None
    if area and area not in {check.area for check in checks.values()}:
        raise KvmcheckError(f"--area: unknown{did_you_mean(area, {check.area for check in checks.values()})}")
    rows = []
    for check in checks.values():
        severity = profile.severity(check) if profile else check.severity
        if area in (None, check.area) and options.severity in (None, severity) and (not profile or profile.setting(check.id)):
            rows.append((check, severity))
    if options.json:
        body = [
            {"id": check.id, "title": check.title, "severity": severity, "area": check.area, "scope": check.scope}
            for check, severity in rows
        ]
        print(json.dumps(body, indent=1))
        return 0
    for check, severity in rows:
        print(f"{check.id}  {severity:<9} {check.scope:<14} {check.title}")
    name = f" in profile {profile.name}" if profile else ""
    print(f"{len(rows)} checks{name}; kvmcheck explain ID tells all about one", file=sys.stderr)
    return 0


def _show_profiles(_options: argparse.Namespace) -> int:
    for profile in _profiles(catalog.load()):
        count = sum(profile.setting(check_id) is not None for check_id in profile.settings)
        print(f"{profile.name}: {profile.title} ({count} checks)")
        print(textwrap.indent(textwrap.fill(" ".join(profile.description.split()), 76), "    "))
    return 0


def _explain(options: argparse.Namespace) -> int:
    from pytest_kvmcheck.reports import explain

    checks = catalog.load()
    shipped = _profiles(checks)
    if options.profile:
        shipped.append(profiles.load(options.profile, checks))
    for number, given in enumerate(options.id):
        check = checks.get(given.upper()) or checks.get(f"KVM-{given.upper()}")
        if check is None:
            raise KvmcheckError(f"{given}: unknown check id{did_you_mean(given.upper(), checks)}")
        if number:
            print("\n" + "-" * 78 + "\n")
        print(explain.as_text(check, shipped), end="")
    return 0


def _chosen_probes(options: argparse.Namespace) -> list[Probe]:
    chosen = probes_for(options.role) if options.role else list(PROBES.values())
    if options.check:
        checks = catalog.load()
        if options.check not in checks:
            raise KvmcheckError(f"--check: {options.check}: unknown check id{did_you_mean(options.check, checks)}")
        chosen = [probe for probe in chosen if probe.id in checks[options.check].reads]
    return chosen


def _commands(options: argparse.Namespace) -> int:
    from pytest_kvmcheck.reports import commands

    chosen = _chosen_probes(options)
    if options.json:
        print(json.dumps(commands.as_json(chosen), indent=1))
    elif options.sudoers is not None:
        print(commands.as_sudoers(chosen, options.sudoers), end="")
    else:
        print(commands.as_text(chosen), end="")
    return 0


def _collect_script(options: argparse.Namespace) -> int:
    from pytest_kvmcheck.gather.script import build

    print("#!/bin/sh\n" + build(probes_for(options.role), secrets.token_hex(16), sudo=options.sudo, active=options.active), end="")
    return 0


def _sos_coverage(options: argparse.Namespace) -> int:
    from pytest_kvmcheck.gather.recorded import from_sosreport
    from pytest_kvmcheck.reports import sos_coverage
    from pytest_kvmcheck.targets import Target

    report = None
    if options.sosreport:
        if not options.sosreport.exists():
            raise KvmcheckError(f"{options.sosreport}: there is no such file or directory")
        report = {role: from_sosreport(Target("sosreport", f"sosreport:{options.sosreport}", role)) for role in ("host", "guest")}
        if failure := report["host"].failure:
            raise KvmcheckError(failure.detail)
    rows = sos_coverage.as_json(catalog.load().values(), report)
    print(json.dumps(rows, indent=1) if options.json else sos_coverage.as_text(rows), end="")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from pytest_kvmcheck.gather import bundle

    complaints = bundle.verify(options.bundle)
    for name, complaint in complaints.items():
        print(f"{options.bundle}: {name} {complaint}")
    if complaints:
        return 1
    manifest, evidence = bundle.read(options.bundle)
    count = sum(len(host.records) for host in evidence)
    print(f"{options.bundle}: sound: {len(evidence)} hosts, {count} answers, sealed {manifest.finished_at} by {manifest.tool}")
    return 0


def _merge(options: argparse.Namespace) -> int:
    from pytest_kvmcheck.reports import json_report, merge

    for path in options.files:
        if not path.is_file():
            raise KvmcheckError(f"{path}: there is no such file")
    if options.junit:
        count = merge.merge_junit(options.files, options.output)
        print(f"{options.output}: {count} test cases of {len(options.files)} files")
        return 0
    merged, notes = merge.merge_reports(options.files)
    for note in notes:
        print(note, file=sys.stderr)
    json_report.write(options.output, merged)
    print(f"{options.output}: {len(merged['results'])} verdicts on {len(merged['hosts'])} hosts")
    return 0 if merged["complete"] else 1


def _schema(options: argparse.Namespace) -> int:
    from pytest_kvmcheck import inventory, waivers
    from pytest_kvmcheck.reports import json_report

    bodies: dict[str, Callable[[], dict[str, object]]] = {
        "report": json_report.schema,
        "profile": lambda: profiles.json_schema(catalog.load()),
        "inventory": inventory.json_schema,
        "waivers": waivers.json_schema,
    }
    print(json.dumps(bodies[options.of](), indent=1))
    return 0


def _docs(options: argparse.Namespace) -> int:
    from pytest_kvmcheck.reports import explain

    checks = catalog.load()
    options.directory.mkdir(parents=True, exist_ok=True)
    pages = explain.catalogue_pages(checks, _profiles(checks))
    for name, text in pages.items():
        (options.directory / name).write_text(text, "utf-8")
    print(f"{options.directory}: {len(pages)} pages")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kvmcheck",
        description="Tells about the checks of pytest-kvmcheck and handles its evidence and reports. The checks themselves are run"
        " by pytest: pytest --kvmcheck --hosts=ssh://kvm01 --kvmcheck-profile production",
        epilog="Exit codes: 0 fine, 1 evidence was changed (verify) or verdicts are missing (merge), 4 a mistake in what was asked."
        " No command needs a network.",
    )
    parser.add_argument("--version", action="version", version=f"kvmcheck {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], help: str, more: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}.",
            epilog=textwrap.dedent(more),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        return sub

    sub = command("list", _list, "list the checks", """\
        examples:
          kvmcheck list --profile production --severity critical
          kvmcheck list --area NUM
          kvmcheck list --json | jq -r '.[].id'
        Ids are what pytest's -k takes: pytest --kvmcheck -k KVM-MEM-001""")  # fmt: skip
    sub.add_argument("--profile", metavar="NAME|FILE", help="only the checks of this profile, with its severities")
    sub.add_argument("--area", help="only one area: CPU, MEM, NUM ...")
    sub.add_argument("--severity", choices=[str(severity) for severity in Severity])
    sub.add_argument("--json", action="store_true", help="as JSON")

    command("profiles", _show_profiles, "show the shipped profiles and what each trades for what", """\
        A profile of your own is a YAML file that extends one of them:
          name: site
          extends: production
          checks:
            KVM-TIM-002: {params: {max_offset_ms: 5}}
        kvmcheck list --profile NAME lists the checks of one; kvmcheck schema profile helps your editor.""")  # fmt: skip

    sub = command("explain", _explain, "explain checks: the good state, why, what is read, the rule, how to fix", """\
        examples:
          kvmcheck explain KVM-MEM-001
          kvmcheck explain mem-001 num-005 --profile site.yaml""")  # fmt: skip
    sub.add_argument("id", nargs="+", help="id of a check; KVM- may be left out")
    sub.add_argument("--profile", metavar="NAME|FILE", help="show the values of this profile too")

    sub = command("commands", _commands, "list every command and file that a run can read on a target", """\
        Nothing else is ever run, and nothing is ever written there. Without root, what needs it is "not permitted".
        examples:
          kvmcheck commands | less
          kvmcheck commands --check KVM-STO-002
          kvmcheck commands --sudoers checker > kvmcheck.sudoers && visudo -c -f kvmcheck.sudoers
          kvmcheck commands --json | jq -r '.[] | select(.root != "no") | .id'""")  # fmt: skip
    sub.add_argument("--role", choices=("host", "guest"), help="only what this role of target is asked")
    sub.add_argument("--check", metavar="ID", help="only what one check reads")
    form = sub.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON")
    form.add_argument(
        "--sudoers", metavar="USER", nargs="?", const="kvmcheck", help="as sudoers rules for USER (default: kvmcheck)"
    )

    sub = command("collect-script", _collect_script, "print the gathering script, for hosts that cannot be reached from here", """\
        Have it run there by hand, Ansible or Salt, bring its output back as a file, and judge that:
          kvmcheck collect-script > collect.sh
          sh collect.sh > kvm01.reply          # on the host, as root if possible
          pytest --kvmcheck --hosts=reply:kvm01.reply
        Secrets are taken out when the reply is judged, not on the host: treat the file accordingly.""")  # fmt: skip
    sub.add_argument("--role", choices=("host", "guest"), default="host", help="what the target is (default: host)")
    sub.add_argument("--sudo", action="store_true", help="run what needs root by sudo -n")
    sub.add_argument("--active", action="store_true", help="also ask what sends packets into the network")

    sub = command("sos-coverage", _sos_coverage, "show which evidence of each check a sosreport contains", """\
        A sosreport is a target: pytest --kvmcheck --hosts=sosreport:sosreport-kvm01.tar.xz. What it does not
        contain is unknown. With a SOSREPORT, the table also tells what that one lacks.
        examples:
          kvmcheck sos-coverage
          kvmcheck sos-coverage sosreport-kvm01.tar.xz
          kvmcheck sos-coverage --json | jq -r '.[] | select(.coverage == "all") | .check'""")  # fmt: skip
    sub.add_argument("sosreport", nargs="?", type=Path, metavar="SOSREPORT", help="a sosreport: a directory or an archive")
    sub.add_argument("--json", action="store_true", help="as JSON")

    sub = command("verify", _verify, "verify that a bundle of evidence is as it was sealed", """\
        Agrees with: cd DIR && sha256sum -c SHA256SUMS; and also finds files that were added.
        Exit codes: 0 sound, 1 changed, 4 not a bundle.""")  # fmt: skip
    sub.add_argument("bundle", type=Path, help="directory of --kvmcheck-record, or a .tar.gz of it")

    sub = command("merge", _merge, "merge the reports of sharded runs", """\
        Of a verdict that is in several, the worse is kept, and it is said. Hosts of one cluster that were judged in
        several runs were not compared: judge their bundles together (pytest --kvmcheck --hosts=bundle:A,bundle:B).
        Exit codes: 0 merged, and every planned verdict is there; 1 merged, and some are missing; 4 not parts of one run.
        examples:
          kvmcheck merge rack1.json rack2.json --output all.json
          kvmcheck merge --junit rack1.xml rack2.xml --output all.xml""")  # fmt: skip
    sub.add_argument("files", nargs="+", type=Path, metavar="FILE", help="JSON reports (or JUnit files with --junit)")
    sub.add_argument("--output", required=True, type=Path, metavar="FILE", help="where the merged report goes")
    sub.add_argument("--junit", action="store_true", help="the files are JUnit XML")

    sub = command("schema", _schema, "print the JSON Schema of the report, or of the files that you write", """\
        examples:
          kvmcheck schema report > report.schema.json
          kvmcheck schema profile > profile.schema.json   # for the YAML support of your editor""")  # fmt: skip
    sub.add_argument("of", choices=("report", "profile", "inventory", "waivers"))

    sub = command("docs", _docs, "write the catalogue as Markdown pages", "example: kvmcheck docs docs/catalogue")
    sub.add_argument("directory", type=Path)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; mistakes are one line and exit code 4."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as exc:
        return USAGE_ERROR if exc.code == 2 else int(exc.code or 0)  # argparse says 2, we say 4 everywhere
    try:
        return int(options.run(options))
    except KvmcheckError as exc:
        print(f"kvmcheck: {exc}", file=sys.stderr)
        return USAGE_ERROR
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except OSError as exc:
        print(f"kvmcheck: {exc.filename or ''}: {exc.strerror}", file=sys.stderr)
        return USAGE_ERROR


if __name__ == "__main__":
    sys.exit(main())
