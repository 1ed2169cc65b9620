#!/usr/bin/env python3
"""Runs the program with a fault at its n-th operation on files, for every command that writes, and looks what is left.

    python tests/faults/run.py [--quick | --all | --most N] [--only TEXT] [--program FILE] [--record benches/record/faults.json]

A shim (shim.c, LD_PRELOAD) kills the program, fails an operation, writes half, or flips a bit. Afterwards

  - no input is changed or gone, and nothing is left behind by a run that failed but its checkpoints (OUT.calibration);
  - a reader finds the old whole, the new whole or a refusal that names the way out, never a mixture;
  - exit code 0 says that every output has the bytes of an undisturbed run, and any other is a documented one;
  - the same command, run again, makes the new whole.

Each fault happens at 64 operations of each scenario (8 with --quick, N with --most N, every one with --all). With --only, the
record keeps its other scenarios.
"""

import argparse
import concurrent.futures
import hashlib
import itertools
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import faults
import model
import scenarios

HERE = pathlib.Path(__file__).resolve().parent
# What can be wrong after a run.
FINDINGS = {
    "input": "inputs lost",
    "lost": "outputs lost",
    "mixture": "mixtures",
    "wrong": "wrong files",
    "changed": "changed by a failed run",
    "code": "exit codes",
    "message": "no way out named",
    "left": "leftovers",
    "rerun": "reruns failed",
}


def snapshot(folder):
    """Every file below a folder: its name and a hash; folders end with a slash."""
    found = {}
    for place, folders, files in os.walk(folder):
        at = pathlib.Path(place)
        found.update({f"{(at / name).relative_to(folder)}/": "" for name in folders})
        for name in files:
            found[str((at / name).relative_to(folder))] = hashlib.sha256((at / name).read_bytes()).hexdigest()
    return found


def is_checkpoint(name):
    """True for what a failed calibration may leave, to go on with."""
    return name.split("/")[0].endswith(".calibration")


class Campaign:
    """The program, the shim and a place for the runs."""

    def __init__(self, program, work, most):
        self.program, self.work, self.most = str(program), work, most
        self.shim = work / "shim.so"
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", self.shim, HERE / "shim.c", "-ldl"], check=True)
        self.inputs = work / "in"
        self.inputs.mkdir()
        for name, seed, blocks in (("a", 1, 2), ("b", 2, 1), ("c", 3, 2)):
            model.write(self.inputs / f"{name}.safetensors", model.tensors(seed, blocks))
        (self.inputs / "text.txt").write_bytes(model.text(4000))
        (self.inputs / "job.toml").write_text(scenarios.JOB)
        self.numbers = itertools.count(1)

    def execute(self, folder, command, more=None, limit=None):
        """Runs the program; its exit code (negative: the signal) and what it said."""
        def limited():
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        environment = {**os.environ, "NO_COLOR": "1", **(more or {})}
        try:
            # What it says goes through pipes: no limit on files holds for them.
            ran = subprocess.run([self.program, "--format", "quiet", *command], cwd=folder, env=environment,
                                 capture_output=True, timeout=600, preexec_fn=limited if limit is not None else None)
        except subprocess.TimeoutExpired:
            return None, "still running after 600 s"
        return ran.returncode, ran.stderr.decode(errors="replace").strip()

    def prepare(self, scenario, folder):
        """Makes what stands there before the command."""
        folder.mkdir(parents=True)
        shutil.copytree(self.inputs, folder / "in")
        for command in scenario.before:
            if command == ["swap"]:
                a, b = folder / "in/a.safetensors", folder / "in/b.safetensors"
                a.rename(folder / "in/x"), b.rename(a), (folder / "in/x").rename(b)
                continue
            code, said = self.execute(folder, command)
            if code != 0:
                raise SystemExit(f"{scenario.name}: {' '.join(command)}: {said}")

    def shimmed(self, folder, log, kind, at=0, number=0, scenario=None):
        """The environment of a run with the shim."""
        victim, donor = scenario.victim
        return {"LD_PRELOAD": str(self.shim), "FAULT_ROOT": str(folder), "FAULT_INPUTS": str(folder / "in"),
                "FAULT_LOG": str(log), "FAULT_KIND": kind, "FAULT_AT": str(at), "FAULT_ERRNO": str(number),
                "FAULT_VICTIM": str(folder / victim), "FAULT_DONOR": str(folder / donor)}

    def fresh(self):
        """A new folder for a run."""
        return self.work / "runs" / str(next(self.numbers))


class Undisturbed:
    """A scenario without faults: what it starts from, what it ends with, and its operations."""

    def __init__(self, campaign, scenario):
        self.campaign, self.scenario = campaign, scenario
        self.template = campaign.fresh()
        campaign.prepare(scenario, self.template)
        self.old = snapshot(self.template)
        self.old_outputs, self.kept = self.split(self.old)
        folder = campaign.fresh()
        log = folder.with_suffix(".log")
        shutil.copytree(self.template, folder)
        code, said = campaign.execute(folder, scenario.command, campaign.shimmed(folder, log, "count", scenario=scenario))
        if code not in scenario.codes:
            raise SystemExit(f"{scenario.name}: exit code {code}: {said}")
        self.log = [tuple(line.split(" ", 3)[1:]) for line in log.read_text().splitlines()]
        self.new = snapshot(folder)
        self.new_outputs, kept = self.split(self.new)
        self.strangers = sorted(n for n in kept if n not in self.old)
        self.sizes = sorted({(folder / n).stat().st_size for n in self.new_outputs})
        self.reads = self.read(folder)[0] | self.read(self.template)[0]
        shutil.rmtree(folder)
        # The same of the input that `change` puts in place.
        folder = campaign.fresh()
        shutil.copytree(self.template, folder)
        victim, donor = scenario.victim
        shutil.copyfile(folder / donor, folder / victim)
        code, _ = campaign.execute(folder, scenario.command)
        self.of_donor = self.split(snapshot(folder))[0] if code == 0 else {}
        self.reads |= self.read(folder)[0]
        shutil.rmtree(folder)

    def split(self, files):
        """The outputs among some files, and the rest, without folders."""
        named = {n: h for n, h in files.items() if not n.endswith("/")}
        outputs = {n: "" if self.scenario.is_loose(n) else h for n, h in named.items() if self.scenario.is_output(n)}
        return outputs, {n: h for n, h in named.items() if n not in outputs}

    def read(self, folder):
        """What readers find in a folder: hashes of the weights that are accepted, and what refusals say."""
        accepted, refused = set(), []
        for pattern, *flags in self.scenario.readers:
            for path in sorted(folder.glob(pattern)) or [folder / pattern]:
                name = str(path.relative_to(folder))
                probe = folder.parent / f"{folder.name}.safetensors"
                sound, said = self.campaign.execute(folder, ["verify", name])
                code, why = self.campaign.execute(
                    folder, ["convert", name, str(probe), "--type", "f32", "--threads", "1", "--force", *flags])
                if code == 0:
                    accepted.add(hashlib.sha256(probe.read_bytes()).hexdigest())
                    probe.unlink()
                elif sound == 0:
                    accepted.add(f"{name} alone is called sound, but {why}")
                if code != 0 or sound != 0:
                    refused.append(why if code != 0 else said)
        return accepted, refused


def judge(whole, fault, folder, code, said, operation):
    """Everything that is wrong after a run: kinds of FINDINGS and details."""
    scenario, wrong = whole.scenario, []
    now = snapshot(folder)
    outputs, kept = whole.split(now)
    victim = scenario.victim[0] if fault.kind in ("change", "shrink") else None
    lost = [n for n, h in whole.kept.items() if kept.get(n) != h and n != victim and not is_checkpoint(n)]
    if lost:
        wrong.append(("input", f"{lost[0]} is {'changed' if lost[0] in kept else 'gone'}"))
    # A lock that cannot be removed is taken by the next run.
    lock = os.path.normpath(operation.removeprefix("unlink ")) if operation.endswith(".lock") else None
    is_new = {n: h for n, h in outputs.items() if n != lock or n in whole.new_outputs} == whole.new_outputs
    is_other = victim is not None and outputs and outputs == whole.of_donor
    if code is None or code not in fault.codes | ({4} if scenario.each else set()) or "panicked" in said:
        wrong.append(("code", f"{code}: {said.splitlines()[0] if said else ''}"))
    if code == 0 and not (is_new or is_other):
        wrong.append(("wrong", f"exit code 0, but {differing(outputs, whole.new_outputs)}"))
    broken = next((n for n in outputs if scenario.is_loose(n) and n.endswith(".json") and not parses(folder / n)), None)
    if broken:
        wrong.append(("wrong", f"{broken} is no whole JSON"))
    if scenario.each:
        for name, digest in outputs.items():
            known = {o.get(name) for o in (whole.old_outputs, whole.new_outputs, whole.of_donor)}
            # What a kill leaves in NAME.partial/ is not finished, and says so.
            if name.endswith((".gguf", ".safetensors")) and ".partial/" not in name and digest not in known:
                wrong.append(("wrong", f"{name} is neither the old nor the new one"))
    elif code != 0 and outputs and outputs not in (whole.old_outputs, whole.new_outputs) and not is_other:
        known = set(whole.old_outputs.values()) | set(whole.new_outputs.values())
        differs = f"{differing(outputs, whole.new_outputs)}, {differing(outputs, whole.old_outputs, 'old')}"
        accepted, refused = whole.read(folder)
        if accepted - whole.reads:
            kind = "mixture" if set(outputs.values()) <= known else "wrong"
            wrong.append((kind, f"a reader accepts it: {differs}"))
        elif not scenario.readers and not (scenario.apart and fault.kills and set(outputs.values()) <= known):
            wrong.append(("wrong", differs))
        silent = [why for why in refused if "help:" not in why]
        if silent:
            wrong.append(("message", silent[0].splitlines()[0] if silent[0] else "nothing is said"))
        if not fault.kills:
            wrong.append(("changed", differing(outputs, whole.old_outputs, "old")))
    anywhere = set(now.values())
    wholes = [set(w.values()) - {""} for w in (whole.old_outputs, whole.new_outputs, whole.of_donor if victim else {}) if w]
    if whole.old_outputs and not scenario.each and not any(w <= anywhere for w in wholes):
        wrong.append(("lost", "neither the old output nor the new one is there in full, under any name"))
    left = [n for n in now if n not in whole.old and n not in whole.new and not is_checkpoint(n)]
    if not fault.kills and left and operation.split()[:1] not in (["unlink"], ["rmdir"]):
        wrong.append(("left", left[0]))
    return wrong, is_new or is_other


def again(whole, folder, is_done):
    """Runs the same command once more; what is wrong with what it makes."""
    scenario = whole.scenario
    if is_done and "--force" not in scenario.command and not scenario.each:
        return []  # it would say rightly that the output exists
    victim = scenario.victim[0]
    if snapshot(folder).get(victim) != whole.old[victim]:
        shutil.copyfile(whole.template / victim, folder / victim)
    code, said = whole.campaign.execute(folder, scenario.command)
    if code not in scenario.codes:
        return [("rerun", f"exit code {code}: {said.splitlines()[0] if said else ''}")]
    now = {n: "" if scenario.is_loose(n) else h for n, h in snapshot(folder).items()}
    new = {n: "" if scenario.is_loose(n) else h for n, h in whole.new.items()}
    return [("rerun", differing(now, new))] if now != new else []


def differing(found, wanted, which="new"):
    """The first differences from the old or the new whole, in words."""
    names = sorted(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n))
    words = [f"{n} is {'missing' if n not in found else 'extra' if n not in wanted else 'another'}" for n in names]
    return f"of the {which} whole {', '.join(words[:3])}{', ...' if len(words) > 3 else ''}"


def parses(path):
    """True if a file is JSON."""
    try:
        json.loads(path.read_bytes())
        return True
    except ValueError:
        return False


def one(whole, fault, number):
    """One run with one fault: what was found, with the operation."""
    campaign, scenario = whole.campaign, whole.scenario
    folder = campaign.fresh()
    shutil.copytree(whole.template, folder)
    log = folder.with_suffix(".log")
    if fault.kind == "file-size":
        code, said = campaign.execute(folder, scenario.command, limit=number)
        operation = f"limit of {number} bytes"
    else:
        more = campaign.shimmed(folder, log, fault.kind, number, fault.number, scenario)
        code, said = campaign.execute(folder, scenario.command, more)
        operation = " ".join(log.read_text().split("\n")[0].split(" ")[2:]) if log.exists() else "not reached"
    if fault.kills and code == 0 and operation == "not reached":
        shutil.rmtree(folder)
        return []  # this run had fewer operations
    wrong, is_done = judge(whole, fault, folder, code, said, operation)
    if not any(kind in ("input", "wrong") for kind, _ in wrong):
        wrong += again(whole, folder, is_done)
    shutil.rmtree(folder)
    log.unlink(missing_ok=True)
    said = said.splitlines()[0] if said else ""
    return [{"kind": kind, "n": number, "operation": operation, "found": what.replace(str(folder), "."),
             "exit": code, "said": said.replace(str(folder), ".")} for kind, what in wrong]


def campaign_of(campaign, scenario, pool):
    """All faults of a scenario: a row of the record."""
    whole = Undisturbed(campaign, scenario)
    row = {"scenario": scenario.name, "command": " ".join(scenario.command), "operations": len(whole.log), "faults": []}
    if whole.strangers:
        print(f"  {scenario.name}: undisturbed, it leaves {whole.strangers}")
        row["undisturbed"] = whole.strangers
    for fault in [*faults.FAULTS, faults.FILE_SIZE]:
        if fault is faults.FILE_SIZE:
            places = faults.limits(whole.sizes, campaign.most)
        else:
            places = faults.chosen(fault.places(whole.log), campaign.most)
        found = [f for runs in pool.map(lambda n: one(whole, fault, n), places) for f in runs]
        row["faults"].append({"fault": fault.name, "runs": len(places), "findings": found})
        for finding in found[:3]:
            print(f"  {scenario.name}, {fault.name} at {finding['n']} ({finding['operation']}), exit {finding['exit']}: "
                  f"{FINDINGS[finding['kind']]}: {finding['found']}", flush=True)
    shutil.rmtree(whole.template)
    return row


def table(rows):
    """Markdown: a line a scenario, and one for each fault."""
    def line(name, parts):
        counts = [sum(f["kind"] == kind for p in parts for f in p["findings"]) for kind in FINDINGS]
        return f"| {name} | {sum(p['runs'] for p in parts)} | {' | '.join(map(str, counts))} |"

    def whole(title, lines):
        head = f"| {title} | runs | {' | '.join(FINDINGS.values())} |"
        return "\n".join([head, f"| --- |{' ---: |' * (len(FINDINGS) + 1)}", *lines])

    names = [fault["fault"] for fault in rows[0]["faults"]]
    by_fault = [line(name, [f for row in rows for f in row["faults"] if f["fault"] == name]) for name in names]
    by_scenario = [line(row["scenario"], row["faults"]) for row in rows]
    every = [line("all", [f for row in rows for f in row["faults"]])]
    return f"{whole('scenario', by_scenario + every)}\n\n{whole('fault', by_fault + every)}\n"


def joined(record, most, rows):
    """The rows of a record, with those that were made anew in place of their scenarios'."""
    if record["at_most"] != most:
        raise SystemExit(f"the record is of {record['at_most']} operations each, not {most}")
    anew = {row["scenario"]: row for row in rows}
    return [anew.pop(row["scenario"], row) for row in record["scenarios"]] + list(anew.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=pathlib.Path, default=model.ROOT / "target/debug/rwkv-quant")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--quick", action="store_const", dest="most", const=8, help="at 8 operations each")
    amount.add_argument("--all", action="store_const", dest="most", const=0, help="at every operation")
    amount.add_argument("--most", type=int, help="at so many operations each")
    parser.add_argument("--only", default="", help="scenarios whose name holds this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--record", type=pathlib.Path, help="write figures (JSON) and a table beside them (.md)")
    args = parser.parse_args()
    # Ignored signals are inherited, as by what a shell runs in the background: the program would never see a Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    most = 64 if args.most is None else args.most or None
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    rows, start = [], time.monotonic()
    with tempfile.TemporaryDirectory(dir=memory) as work, concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        campaign = Campaign(args.program.resolve(), pathlib.Path(work).resolve(), most)
        for scenario in scenarios.all_scenarios():
            if args.only not in scenario.name:
                continue
            began = time.monotonic()
            rows.append(campaign_of(campaign, scenario, pool))
            found = sum(len(f["findings"]) for f in rows[-1]["faults"])
            runs = sum(f["runs"] for f in rows[-1]["faults"])
            print(f"{scenario.name}: {runs} runs, {found} findings, {time.monotonic() - began:.0f} s", flush=True)
    if not rows:
        raise SystemExit(f"no scenario is called {args.only}")
    print(f"\n{table(rows)}\n{time.monotonic() - start:.0f} s")
    if args.record:
        if args.only and args.record.exists():
            rows = joined(json.loads(args.record.read_text()), most, rows)
        args.record.write_text(json.dumps({"at_most": most, "scenarios": rows}, indent=1) + "\n")
        flags = "--all " if most is None else f"--most {most} "
        amount = "every operation" if most is None else f"up to {most} operations of each scenario, those that change names first"
        args.record.with_suffix(".md").write_text(
            f"# Faults at operations on files\n\n`python tests/faults/run.py {flags}--record benches/record/{args.record.name}`: "
            f"each fault at {amount}.\n\n{table(rows)}")
    sys.exit(any(f["findings"] for row in rows for f in row["faults"]))


if __name__ == "__main__":
    main()
