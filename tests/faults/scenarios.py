"""What is run under faults: commands, what stands there before, and which files they write."""

import dataclasses
import re

CONVERT = ["convert", "in/a.safetensors"]
FAST = ["--threads", "1"]
TOKENS = ["--calib", "in/text.txt", "--calib-tokens", "96", "--calib-ctx", "32"]

JOB = """
[release]
name = "small"
[evaluation]
texts = ["text.txt"]
windows = 1
ctx = 64
[[model]]
source = "a.safetensors"
[[artifact]]
type = ["q8_0", "q4_0"]
[[artifact]]
target = "safetensors"
type = "bf16"
split_max_size = "80kB"
"""


def matches(name, pattern):
    """True if a path is of a pattern: `*` stands for anything within a name, `**` for anything."""
    parts = re.split(r"(\*\*|\*)", pattern)
    return re.fullmatch("".join({"**": ".*", "*": "[^/]*"}.get(p, re.escape(p)) for p in parts), name) is not None


@dataclasses.dataclass
class Scenario:
    """A command, run in a folder whose inputs are in `in/`."""

    name: str
    command: list
    # Patterns of the files it writes.
    outputs: list
    # Commands that make what it needs or finds; "in/b" stands for another model than in/a.
    before: list = dataclasses.field(default_factory=list)
    # Models among the outputs that a reader opens, each with the flags that belong to it.
    readers: list = dataclasses.field(default_factory=list)
    # Files that tell of the run, and differ each time.
    loose: list = dataclasses.field(default_factory=list)
    # True if every file of the output is a whole of its own (a release is continued file by file).
    each: bool = False
    # True if a kill may leave some files new and others old, since none needs the others.
    apart: bool = False
    # The input that another program changes meanwhile, and what it becomes.
    victim: tuple = ("in/a.safetensors", "in/c.safetensors")
    # Exit codes of an undisturbed run.
    codes: tuple = (0,)

    def is_output(self, name):
        """True if the command may write a file of this name."""
        return any(matches(name, pattern) for pattern in self.outputs)

    def is_loose(self, name):
        """True if the file's content may differ from run to run."""
        return any(matches(name, pattern) for pattern in self.loose)


def over(scenario, name=None, before=None):
    """The same command with --force over what it made of another model."""
    other = [part.replace("in/a.", "in/b.") for part in scenario.command]
    command = scenario.command + ["--force"]
    return dataclasses.replace(scenario, name=name or f"{scenario.name}, over another", command=command,
                               before=scenario.before + (before or [other]))


def all_scenarios():
    """Every scenario: each command into an empty place, and over another model's output."""
    file = Scenario("file", [*CONVERT, "o.gguf", "--type", "q8_0", *FAST], ["o.gguf"], readers=[["o.gguf"]])
    parts = Scenario("set", [*CONVERT, "o.gguf", "--type", "q8_0", "--split-max-size", "60kB", *FAST],
                     ["o*.gguf"], readers=[["o.gguf"], ["o-*.gguf"]])
    indexed = Scenario("set with index", [*CONVERT, "o.safetensors", "--split-max-size", "80kB", *FAST],
                       ["o*.safetensors", "o.safetensors.index.json"],
                       readers=[["o.safetensors.index.json"], ["o-*.safetensors"]])
    folder = Scenario("folder", [*CONVERT, "o", "--to", "hf", "--type", "bf16", *FAST], ["o/*"], readers=[["o"]])
    pair = Scenario("adapter",
                    [*CONVERT, "o.gguf", "--type", "q4_0", "--low-rank", "4", "--modelfile", "world", "--save-recipe",
                     "o.toml", *FAST],
                    ["o.gguf", "o.lora.gguf", "o.Modelfile", "o.toml"],
                    readers=[["o.gguf", "--lora", "o.lora.gguf"]])
    calibrated = Scenario("calib", [*CONVERT, "o.gguf", "--type", "q4_0", *TOKENS, *FAST], ["o.gguf"],
                          readers=[["o.gguf"]])
    calibrated_pair = dataclasses.replace(pair, name="calib with adapter", command=[*pair.command, *TOKENS],
                                          loose=["o.toml"])  # it names the text by its whole path
    compact = Scenario("rwkvz", [*CONVERT, "o.rwkvz", "--bpw", "4", *FAST], ["o.rwkvz"], readers=[["o.rwkvz"]])
    compact_calibrated = Scenario("rwkvz, calib",
                                  [*CONVERT, "o.rwkvz", "--bpw", "4", "--low-rank", "2", *TOKENS, *FAST],
                                  ["o.rwkvz"], readers=[["o.rwkvz"]])
    lossless = Scenario("rwkvz, lossless", ["convert", "in/a.safetensors", "o.rwkvz", *FAST], ["o.rwkvz"],
                        readers=[["o.rwkvz"]])
    pickled = Scenario("pth", [*CONVERT, "o.pth", "--type", "bf16", *FAST], ["o.pth"], readers=[["o.pth"]])
    cpp = Scenario("bin", [*CONVERT, "o.bin", "--type", "q5_1", *FAST], ["o.bin"], readers=[["o.bin"]])
    prefab = Scenario("prefab", [*CONVERT, "o.prefab", "--type", "int8", *FAST], ["o.prefab"], readers=[["o.prefab"]])

    st = Scenario("st", [*CONVERT, "o.st", "--type", "f16", *FAST], ["o.st"], readers=[["o.st"]])
    # web-rwkv reads no models of one block, as in/b is.
    alike = ["convert", "in/c.safetensors"]
    other_prefab = [[*alike, "o.prefab", "--type", "int8", *FAST]]
    other_st = [[*alike, "o.st", "--type", "f16", *FAST]]
    checked = Scenario("bin with checksums", [*cpp.command, "--checksum-file"], ["o.bin", "o.bin.sha256"],
                       readers=[["o.bin"]])
    # Other inputs than the model change meanwhile.
    text = dataclasses.replace(calibrated, name="calib, of a text that changes", victim=("in/text.txt", "in/job.toml"))
    weighed = Scenario("imatrix that changes", [*CONVERT, "o.gguf", "--type", "q4_0", "--imatrix", "in/i.dat", *FAST],
                       ["o.gguf"], before=[["calibrate", "in/a.safetensors", "in/text.txt", "-o", "in/i.dat", "--tokens",
                                            "96", "--ctx", "32", *FAST]],
                       readers=[["o.gguf"]], victim=("in/i.dat", "in/text.txt"))

    def shards(out, *more):
        return [[*CONVERT, out, *more, "--shard", f"{n}/2", *FAST] for n in (1, 2)]

    recipe = [*CONVERT, "in/o.rwkvz", "--bpw", "4", "--save-recipe", "in/o.toml", *FAST]
    coded = ["--recipe", "in/o.toml"]
    shard = Scenario("shard", shards("o.gguf", "--type", "q8_0")[0], ["o.gguf.shard-1of2"])
    shard_calibrated = Scenario("shard, calib",
                                shards("o.gguf", "--type", "q4_0", "--calib-independent", *TOKENS)[0],
                                ["o.gguf.shard-1of2"])
    shard_compact = Scenario("shard of rwkvz", shards("o.rwkvz", *coded)[0], ["o.rwkvz.shard-1of2"], before=[recipe])
    merge = Scenario("merge", ["merge", "o.gguf"], ["o.gguf"], before=shards("o.gguf", "--type", "q8_0"),
                     readers=[["o.gguf"]], victim=("o.gguf.shard-1of2", "in/c.safetensors"))
    merge_set = Scenario("merge of a set", ["merge", "o.gguf"], ["o.gguf", "o-*.gguf"],
                         before=shards("o.gguf", "--type", "q8_0", "--split-max-size", "60kB"),
                         readers=[["o.gguf"], ["o-*.gguf"]], victim=("o.gguf.shard-1of2", "in/c.safetensors"))
    merge_bin = Scenario("merge of bin", ["merge", "o.bin"], ["o.bin"], before=shards("o.bin", "--type", "q8_0"),
                         readers=[["o.bin"]], victim=("o.bin.shard-1of2", "in/c.safetensors"))
    merge_compact = Scenario("merge of rwkvz", ["merge", "o.rwkvz"], ["o.rwkvz"],
                             before=[recipe, *shards("o.rwkvz", *coded)], readers=[["o.rwkvz"]],
                             victim=("o.rwkvz.shard-1of2", "in/c.safetensors"))
    # Merging over a file of another model, made on one machine.
    other = [["convert", "in/b.safetensors", "o.gguf", "--type", "q8_0", *FAST]]
    other_set = [["convert", "in/b.safetensors", "o.gguf", "--type", "q8_0", "--split-max-size", "60kB", *FAST]]

    measure = ["--tokens", "96", "--ctx", "32", *FAST]
    statistics = Scenario("calibrate", ["calibrate", "in/a.safetensors", "in/text.txt", "-o", "o.safetensors", *measure],
                          ["o.safetensors"])
    imatrix = Scenario("calibrate, imatrix", ["calibrate", "in/a.safetensors", "in/text.txt", "-o", "o.gguf", *measure],
                       ["o.gguf"])
    clusters = Scenario("cluster-head", ["cluster-head", "in/a.safetensors", "-o", "o.rwkvz", *FAST], ["o.rwkvz"])
    evaluation = Scenario("eval-ppl --save",
                          ["eval-ppl", "in/a.safetensors", "in/text.txt", "--windows", "1", "--ctx", "64", "--save",
                           "o.json", *FAST],
                          ["o.json"], loose=["o.json"])
    results = ["eval-ppl", "in/a.safetensors", "in/text.txt", "--windows", "1", "--ctx", "64", "--save", "in/r.json"]
    report = Scenario("report", ["report", "in/r.json", "-o", "o.html"], ["o.html"],
                      before=[[*results, *FAST], [*results[:6], "32", "--save", "in/q.json", *FAST]],
                      victim=("in/r.json", "in/job.toml"))
    other_page = ["report", "in/q.json", "-o", "o.html"]
    batch = Scenario("batch", ["batch", "in/job.toml", "--out", "release", "--jobs", "1", *FAST], ["release/**"],
                     loose=["release/summary.*"], each=True,
                     readers=[["release/a/a-Q8_0.gguf"], ["release/a/a-Q4_0.gguf"],
                              ["release/a/a-BF16.safetensors.index.json"]])
    # The job is the same and the source another: what is there is replaced without --force.
    batch_anew = dataclasses.replace(batch, name="batch, of a source that changed",
                                     before=[["swap"], batch.command, ["swap"]])
    joined = dataclasses.replace(batch, name="batch merge", command=["batch", "merge", "release"],
                                 before=[[*batch.command, "--shard", f"{n}/2"] for n in (1, 2)])
    manual = Scenario("man", ["man", "."], ["*.1"], apart=True)
    return [
        file, over(file),
        parts, over(parts), over(parts, "set, over a file", other), over(dataclasses.replace(file, outputs=parts.outputs), "file, over a set", other_set),
        indexed, over(indexed), folder, over(folder),
        pair, over(pair),
        over(dataclasses.replace(file, outputs=pair.outputs), "file, over an adapter's pair",
             [[part.replace("in/a.", "in/b.") for part in pair.command]]),
        calibrated, over(calibrated), calibrated_pair, over(calibrated_pair),
        compact, over(compact), compact_calibrated, lossless, pickled, over(pickled), cpp, over(cpp), prefab,
        over(prefab, before=other_prefab), st, over(st, before=other_st), checked, over(checked), text, weighed,
        shard, over(shard), shard_calibrated, shard_compact,
        merge, over(merge, before=other), merge_set, over(merge_set, before=other_set), merge_bin, merge_compact,
        statistics, over(statistics), imatrix, clusters,
        evaluation, over(evaluation), report, over(report, before=[other_page]), manual, batch, batch_anew, joined,
    ]
