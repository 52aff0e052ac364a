"""The command line: what it prints, what it refuses, and with which exit code."""

import ctypes
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rankwise import machine
from rankwise.cli import COMMANDS, main
from rankwise.commands._shared import overrides
from rankwise.commands.adapter import ABOUT
from rankwise.commands.plan import _bytes
from rankwise.commands.train import split
from rankwise.study.compose import composed
from rankwise.synonyms import GROUPS


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# A command line of the user's, and what its one line of refusal must name.
REFUSED = [
    ("trian", ["no such command", "did you mean train?"]),
    ("fit --trainer.max_epochs 3", ["fit: no such command", "(here it is rankwise train)"]),
    ("evaluate", ["evaluate: no such command", "(a run trains, validates and tests)"]),
    ("stage=sft", ["stage=sft: no such command", "(here it is rankwise train KEY=VALUE)"]),
    ("sft.yml", ["sft.yml: no such command", "(here it is experiment=NAME, or --config FILE)"]),
    ("train sft.yaml", ["sft.yaml: not KEY=VALUE", "rank=8 (here it is experiment=NAME, or --config FILE)"]),
    ("train method=LoRA", ["method=LoRA: no such option; one of ", "(did you mean lora?)"]),
    ("train model=org/Llama-3.2-1B", ["model=org/Llama-3.2-1B: no such", "model=local model.path=org/Llama-3.2-1B)"]),
    ("find =8", ["rankwise: =8: not KEY=VALUE without blanks, such as"]),
    ("find task.text=The text column seed=1", ["text: not KEY=", "quote it: 'task.text=The text column')"]),
    ("train method=lora text", ["(did you mean task=text?)"]),
    ("train task=glue/none", ["task=glue/none: no such option; one of glue/cola, glue/mnli"]),
    ("train method=prefix_tuning", ["any other of PEFT's is method=custom 'method.peft={_target_: peft.XConfig}'"]),
    ("train -m 'method.lr=interval(1e-4,1e-2)'", ["interval(1e-4,1e-2): hydra/sweeper=optuna draws from an interval"]),
    ("train experiment=rank_swep", ["experiment=rank_swep", "did you mean rank_sweep?"]),
    ("train experment=rank_sweep", ["experment"]),
    ("train method.rnk=4", ["method.rnk", "did you mean method.rank?"]),
    ("train ++method.foo=1", ["method.foo: no such key;"]),
    ("train seed=1 seed=2", ["seed", "given twice"]),
    ("train seed=1.5", ["seed=1.5: an integer from 0"]),
    ("train targets.layers=4", ["targets.layers=4: a list of integers, as [4,5], or null"]),
    ("train tracking.tags={a:1}", ["tracking.tags={a:1}: a list of texts"]),
    ("train method.lr=1e", ["method.lr=1e: a number"]),
    ("train -m trainer={clip:x} seed=0,1", ["trainer.clip=x: a number from 0"]),
    ("train trainer.deterministic=maybe", ["trainer.deterministic=maybe: true or false"]),
    ("train -method.rank=4", ["train: -method.rank=4: no such flag (here it is method.rank=VALUE); see"]),
    ("train method.layers=[1]", ["=[1]: how many of the last blocks are trained (chosen ones: targets.layers), from"]),
    ("train experiment=claims", ["experiment=claims: no such option; one of claims/core, claims/forgetting"]),
    ("bench nosuch", ["rankwise: bench: nosuch: one word too many; see rankwise bench --help\n"]),
    ("report --json=3", ["rankwise: report: --json=3: takes no value; see rankwise report --help\n"]),
    ("plan --gpu t4 debug=fast trainer.device=cpu", ["trainer.device=cpu: auto or cuda with --gpu\n"]),
    ("train outputs=\"''\"", ["outputs=''", "a folder"]),
    ("train -m hydra/launcher=joblib", ["hydra/launcher=joblib", "pip install hydra-joblib-launcher"]),
    ("train model=local", ["model.path"]),
    ("train debug=fast model=tiny_t5 task=synthetic_lm", ["t5 cannot be built for task.kind=causal_lm"]),
    ("train model.path=./nowhere", ["model.path=./nowhere", "no such file"]),
    *(
        (f"{line} debug=fast model=local model.path=a/b", ["model.path=a/b: no such"])
        for line in ("plan", "train", "find")
    ),
    ("train -m debug=fast task=local task.path=a/b task.text=x task.label=y seed=0,1", ["task.path=a/b: no such"]),
    ("train -m debug=fast study=u,v seed=0", ["study=u,v: the same run in both; give one of them"]),
    ("find --jobs 2 hydra.launcher.jobs=3", ["--jobs 2: not with hydra.launcher.jobs=3; leave one out"]),
    ("train -m debug=fast seed=0,1 +hydra.launcher.foo=3", ["got an unexpected keyword argument 'foo'"]),
    ("train debug=fast +hydra.sweeper.pairs=[]", ["+hydra.sweeper.pairs=[]: of a study; add -m"]),
    ("train -m 'method.rank=glob(*)'", ["empty axis"]),
    ("train -m method.rank=1,0", ["method.rank=0"]),
    ("train -m --jobs 0", ["--jobs 0"]),
    ("train -m --jobs 2 hydra/launcher=basic seed=0,1", ["--jobs 2: not with hydra/launcher=basic; leave one out"]),
    ("train -m --rerun hydra.launcher.join=true seed=0,1 debug=fast", ["--rerun: not with --join, which takes"]),
    ("train -m experiment=tuned_ranks method.lr=1,2", ["method.lr: an axis of the study and of hydra.sweeper.tu"]),
    ("train -m hydra.launcher.jobs=two", ["hydra.launcher.jobs=two"]),
    ("train -m hydra.launcher.returns=objective", ["hydra.launcher.returns=objective", "[objective]"]),
    ("train -m hydra.sweeper.pairs=[{seed:1}]", ["hydra.sweeper.pairs", "[1]"]),
    ("train -m hydra.sweeper.exclude=[5]", ["hydra.sweeper.exclude=[5]"]),
    ("train -m hydra.sweeper.tune=5", ["hydra.sweeper.tune=5"]),
    ("train -m hydra.sweeper.max_batch_size=3", ["hydra.sweeper.max_batch_size: no such key"]),
    ("sweep --convert seed=0,1 hydra.sweeper.params=5", ["hydra.sweeper.params=5"]),
    ("train hydra.sweeper=5", ["hydra.sweeper=5", "hydra/sweeper=NAME"]),
    ("train hydra/launcher=slurm", ["hydra/launcher=slurm", "add -m"]),
    ("claims --paper x", ["--paper: no such flag (here it is --only ID)"]),
    ("report --format json", ["--format: no such flag (the forms are flags, such as --json"]),
    ("find task.margin=0.01 --margin 2%", ["task.margin: given twice, as --margin is the same"]),
    ("find stage=tune", ["stage: of each run, which find chooses itself"]),
    ("find --budget -1h", ["--budget -1h: a time such as 30m"]),
    ("train callbacks=[a,5]", ["callbacks=[a,5]: names of options, as callbacks=NAME or callbacks=[a,b]; none is"]),
    ("train logger=null", ["logger=null: names of options, as logger=NAME or logger=[a,b]; none is logger=[]"]),
    ("train ~callbacks.mine", ["~callbacks.mine: nothing can be taken away; write callbacks=[a,b], those to keep"]),
    ("train debug=fast callbacks=[nope]", ["callbacks=nope: no such option; yours is NAME, with a conf/callbacks/"]),
    ("train debug=fast +callbacks.x=5", ["callbacks.x=5: {_target_: package.Class", "NAME.yaml of yours"]),
    ("train --seed 3", ["--seed: no such flag (here it is seed=VALUE)"]),
    ("train --json", ["--json: of --dry-run"]),
    *(
        (f"sweep --convert --{flag} seed=0,1", [f"--{flag.split()[0]}: not with --convert"])
        for flag in ("json", "count 3", "jobs 2", "rerun", "seed 1")
    ),
    ("sweep --convert seed=0,1 hydra/launcher=slurm", ["hydra/launcher=slurm: the agents of a W&B sweep start"]),
    ("fetch experiment=optuna seed=0,1", ["seed=0,1: several values for one key where one belongs; give"]),
    ("train debug=fast seed=range(3)", ["seed=range(3): several values for one key make a study; add -m"]),
    ("train -cd nowhere debug=fast", ["Additional config directory", "nowhere' not found\n"]),
    ("train hydra.searchpath=[file:///no/where] debug=fast --dry-run", ["rankwise: /no/where: no such folder of op"]),
    ("train debug=fast --join", ["--join: of a study; add -m"]),
    ("train --join --config x.yaml", ["--join: not with --config"]),
    ("train -m --join hydra/launcher=slurm seed=0,1", ["--join: not with hydra/launcher=slurm"]),
    ("train --dry-run --cfg job", ["--dry-run --cfg: one of these at a time"]),
    ("adapter eval x --tasks y --shots -1", ["--shots -1: a number of at least 0"]),
    ("sweep --convert experiment=optuna", ["hydra.sweeper.n_trials: a W&B grid cannot say this"]),
    ("plan experiment=optuna", ["hydra/sweeper=optuna: chooses its runs"]),
    ("bench --output nowhere/x.json", ["--output nowhere/x.json: cannot be written (No such file or directory)"]),
    ("analyze layers nowhere --out /proc/x/y", ["--out /proc/layers.json: cannot be written"]),
    ("claims --markdown /proc/x.md", ["--markdown /proc/x.md: cannot be written"]),
    ("train -m --dry-run hydra/sweeper=optuna seed=0,1", ["hydra/sweeper=optuna: chooses its runs"]),
    (f"plan --fit {'9' * 100}", ["--fit 999", "a size such as 24GB"]),
    ("train -m --cfg job", ["--multirun --cfg: one of these"]),
    ("train -cn rank_sweep", ["--config-name: no such flag (here it is experiment=NAME, or --config FILE)"]),
    ("train --learning-rate 1", ["--learning-rate: no such flag (here it is method.lr)"]),
    ("train callbacks=a callbacks=b", ["callbacks: given twice; write callbacks=[a,b] for both"]),
    ("train -m debug=fast seed=0,1 task.n_validation=400", ["task.n_validation=400: the data have 84 rows"]),
    ("train experiment=intrinsic method=lora", ["method=lora: hydra.sweeper.pairs has it too"]),
    ("train -m seed=0,1 hydra.launcher.workers=2", ["workers: no such key (of hydra/launcher=slurm); 'rankwise"]),
    ("sweep --convert", ["sweep --convert: give a study, such as experiment=rank_sweep"]),
    ("train tracking.latency=3", ["tracking.latency=3: a list of pairs, as [[1,128],[32,512]]"]),
    ("analyze spectra x", ["analyze: spectra: one of subspaces, amplification, ", "(did you mean spectrum?)"]),
    ("adapter", ["adapter: give one of merge, export"]),
    ("train --cfg jobs", ["train: --cfg=jobs: one of job, hydra, all (did you mean job?); see"]),
    ("train 'task.label=Note (1-10)'", ["cannot be read", """other signs: 'task.label="Note (1-10)"'"""]),
    ("find /etc/hosts", ["=8 (here it is task=local task.path=/etc/hosts task.text=COLUMN task.label=COLUMN)"]),
    ("find --data x.csv", ["--data: no such flag (here it is task=local task.path=FILE task.text=COLUMN task.label=C"]),
    ("train task.labels=[a", ["task.labels=[a: cannot be read", """'KEY="VALUE"'"""]),
    ("train trainer.seed=1", ["trainer.seed: no such key (here it is seed)"]),
    ("train task=sst2", ["task=sst2", "(did you mean glue/sst2?)"]),
    ("plan debug=fast model=tiny_gpt2 task=synthetic_lm method=head", ["method=head: needs a task head, which a lang"]),
    ("train debug=fast trainer.max_time=0:0:1:0", ["trainer.max_time=0:0:1:0: days:hours:minutes:seconds, as 00:00"]),
    ("train debug=fast model=tiny_gpt2 task=reasoning task.path=q.jsonl", ["and neither task.path nor task.package"]),
    ("train method=head targets=qv", ["targets=qv", "method=head"]),
    ("train -m method=probe seed=0,1 trainer.threads=1 quant=nf4", ["quant=nf4: of no use with method=probe"]),
    ("train -m method=tfidf,probe optim.lr=1", ["optim.lr=1: of no use with method=tfidf or method=probe;"]),
    ("train debug=fast forgetting=local forgetting.path=no/such", ["forgetting.path=no/such: no such file"]),
    ("train debug=fast task.encoding=utf-8", ["task.encoding=utf-8: of no use with task=synthetic"]),
    ("train -m optim.momentum=0.5,0.6", ["optim.momentum=0.5: of no use with optim=adamw"]),
    ("train optim=adafactor optim.betas=[0.8,0.9]", ["optim.betas=[0.8,0.9]: of no use with optim=adafactor"]),
    *(
        (f"{command} debug=fast trainer.device=cuda", ["=cuda: no GPU is visible here; use trainer.device=auto"])
        for command in ("plan", "train", "train --dry-run", "find")
    ),
    ("plan debug=fast trainer.devices=4096", ["trainer.devices=4096: at most"]),
    ("plan debug=fast trainer.precision=fp16", ["=fp16: fp32, bf16 or auto on a CPU, where fp16 is slower"]),
    ("plan debug=fast outputs=~nosuchuser/x", ["outputs=~nosuchuser/x: another folder: this user has no home"]),
    ("plan debug=fast callbacks={x:{_target_:lightning.pytorch.callbacks.Timer}}", ["Timer: ends a run by the clock"]),
    ("train -m --dry-run hydra/sweeper=basic seed=0,1", ["hydra/sweeper=basic: walks through the same combinations"]),
    ("train hydra.verbose=5", ["hydra.verbose=5: Hydra cannot take this"]),
    ("find hydra/launcher=5", ["hydra/launcher=5: Hydra cannot take this"]),
    ("train hydra.mode=x", ["hydra.mode", "'x'"]),
    ("train trainer={nokey:1}", ["trainer.nokey: no such key"]),
    ("train task.margin=5%", ["task.margin=5%: a number above 0; 5% is 0.05"]),
    ("train seed=5%", ["seed=5%: an integer from 0 to 4294967295\n"]),
    ("train task.margin=5", ["task.margin=5: between 0 and 1, both excluded; 5% is 0.05"]),
    ("train optim.betas=[a,b]", ["optim.betas=[a,b]: a list of numbers"]),
    ("train debug={a:1}", ["debug={a:1}", "the name of one option"]),
    ("train --mulitrun", ["--mulitrun", "did you mean --multirun?"]),
    ("train --config nowhere.yaml", ["--config nowhere.yaml", "No such file"]),
    ("train --config nowhere.yaml hydra/launcher=slurm", ["hydra/launcher=slurm: not with --config"]),
    ("train -m --jobs ²", ["--jobs ²", "at least 1"]),
    ("train '~method'", ["~method", "nothing can be taken away"]),
    ("train quant=", ["quant=", "the name of one option"]),
    ("train method=[lora,full]", ["method=[lora,full]", "with -m: method=lora,full"]),
    ("train targets=[q_proj,up]", ["targets=[q_proj,up]: the name", "are targets=custom targets.modules=[q_proj,up]"]),
    ("train targets=a_proj,up", ["targets=a_proj,up: several", "value; layers by their names are targets=custom"]),
    ("train targets=q,mlp", ["targets=q,mlp: several", "quote twice what is one value\n"]),
    ("train -m experiment=rank_sweep,rank_lr", ["experiment=rank_sweep,rank_lr", "a study of its own"]),
    ("train -m 'experiment=glob(rank*)'", ["experiment=glob(rank*)", "a study of its own"]),
    ("train hydra.run.dir=x", ["hydra.run.dir=x", "outputs=FOLDER"]),
    ("plan rank=1 method.rank=2", ["method.rank", "given twice"]),
    ("report nowhere", ["nowhere", "no such folder"]),
    (f"report {'x' * 300}", ["xxx…: a name that is too long"]),
]


@pytest.mark.parametrize(("line", "named"), REFUSED, ids=[line for line, _ in REFUSED])
def test_bad_input_is_one_line_that_names_it_exit_2_and_nothing_written(line, named, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "gpus", list)
    assert main(shlex.split(line)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("rankwise: ") and err.count("\n") == 1
    for part in named:
        assert part in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "line",
    [
        *("report private", "report private/s", "report private/s.zip", "analyze spectrum private/s"),
        *("find --replay private/s", "adapter merge private/s", "train debug=fast method.init_from=private/s"),
    ],
)
def test_a_folder_that_the_user_may_not_enter_is_one_line(line, tmp_path, capsys):
    (tmp_path / "private").mkdir(mode=0)
    libc, head, held = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(head, held)
    every = held[0]
    held[0] &= ~0b110  # by which root may enter any
    libc.capset(head, held)
    try:
        assert main(line.split()) == 2
    finally:
        held[0] = every
        libc.capset(head, held)
    assert re.fullmatch(r"rankwise: \S*private\S*: no access \(Permission denied\)\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("++method.rank=4 +quant=nf4 +lr=1", "method.rank=4 quant=nf4 method.lr=1"),
        ("callbacks=[es,lr] callbacks.es.patience=3", "callbacks=[es,lr] ++callbacks.es.patience=3"),
        ("callbacks=a +callbacks={b:{monitor:x}}", "callbacks=a ++callbacks={b:{monitor:x}}"),
    ],
)
def test_what_is_added_or_overridden_is_overridden(typed, read):
    assert overrides(typed.split()) == read.split()


@pytest.mark.parametrize(
    ("text", "size"), [("24GB", 24 * 10**9), ("22.5GiB", 45 * 2**29), ("512 kib", 2**19), ("9000000", 9 * 10**6)]
)
def test_a_size_is_decimal_or_binary_as_its_unit_says(text, size):
    assert _bytes(text) == size


def test_the_commonest_words_work_as_they_are():
    config = composed(split(["rank=3.0", "lr=0.5", "tags=[a]", "name=1.0"])[1])
    assert (config.method.rank, config.method.lr, config.optim.lr) == (3, 0.5, 0.5)
    assert config.tracking.tags == ["a"] and config.name == "1.0"


@pytest.mark.parametrize(("words", "rate"), [([], 0.1), (["method.lr=0.5"], 0.5), (["method=full", "lr=0.3"], 0.3)])
def test_sgd_has_a_rate_of_its_own_until_one_is_given(words, rate):
    assert composed(split(["optim=sgd", *words])[1]).optim.lr == rate


@pytest.mark.parametrize("words", ["-m seed=0,1", "-m seed=0,1 --rerun", "-m seed=0,1 rerun=true"])
def test_who_interrupts_a_rerun_is_told_that_the_same_command_repeats_it(words, capsys, monkeypatch):
    def interrupted(*_: object) -> int:  # no signal, which a job in the background may ignore
        raise KeyboardInterrupt

    monkeypatch.setattr("rankwise.study.app.call_hydra", interrupted)
    assert main(["train", *words.split()]) == 130
    assert ("--rerun repeats what it has finished" in capsys.readouterr().err) == ("rerun" in words)


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("command", ["", *COMMANDS, *(f"adapter {name}" for name in ABOUT)])
def test_help_tells_how_to_use_each_command_within_the_terminal(command, width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: rankwise {command}".rstrip())
    assert max(map(len, shown.splitlines())) <= width


def test_help_does_not_import_what_takes_long():
    code = (
        "import sys; from rankwise.cli import main; main(['--help']); main(['train', '--help']);"
        "sys.exit(','.join({'torch', 'hydra', 'omegaconf', 'numpy', 'rich'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_train_help_lists_every_option_of_every_group(capsys):
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    for group in GROUPS:
        assert f"  {group}=" in out
    assert "rank_sweep" in out and "tiny_bert" in out


def test_version_is_the_installed_one(capsys):
    from importlib.metadata import version

    for flag in ("--version", "-V"):
        assert main([flag]) == 0
        assert capsys.readouterr().out == f"rankwise {version('rankwise')}\n"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("train --cfg job", "  rank: 8\n"),
        ("train method.rank=3 --cfg job", "  rank: 3\n"),
        ("train outputs=~/x --cfg job", "\noutputs: ~/x\n"),
        ("train 'targets.ranks={query: 2}' --cfg job", "  ranks:\n    query: 2\n"),
    ],
)
def test_the_composed_config_is_printed_and_nothing_runs(line, shown, capsys, tmp_path):
    assert main(shlex.split(line)) == 0
    assert shown in capsys.readouterr().out and not any(tmp_path.iterdir())


def test_hydra_config_is_shipped_whole_every_group_option_composes(capsys):
    conf = Path(__file__).parents[1] / "conf"
    groups = [group for group in GROUPS if group != "experiment"]  # whose options have a test of their own
    options = {group: [f"{group}={p.stem}" for p in sorted((conf / group).glob("*.yaml"))] for group in groups}
    alone = [[option] for option in options.pop("debug")]  # changes what other groups say
    lines = [*itertools.zip_longest(*options.values(), fillvalue=""), *alone]
    for line in lines:
        extra = ["model.path=x"] if "model=local" in line else []
        extra += ["forgetting.path=x"] if "forgetting=local" in line else []
        extra += (
            []
            if {f"task={name}" for name in ("local", "pairs", "prompts", "chat")}.isdisjoint(line)
            else ["task.path=x"]
        )
        assert main(["train", *filter(None, line), *extra, "--cfg", "job", "hydra.mode=RUN"]) == 0, line
    assert sum(map(len, options.values())) > 100
    capsys.readouterr()


def test_a_conf_folder_of_the_user_adds_options_and_experiments(tmp_path, capsys):
    (tmp_path / "conf/method").mkdir(parents=True)
    (tmp_path / "conf/method/mine.yaml").write_text("defaults: [lora, _self_]\nrank: 3\n")
    (tmp_path / "conf/method/full.yaml").write_text("name: full\nlr: 7\n")
    (tmp_path / "conf/method/bad.yaml").write_text("defaults: [lora, _self_]\nrnk: 3\n")
    assert main(["train", "method=mine", "--cfg", "job"]) == 0
    assert "\n  rank: 3\n" in capsys.readouterr().out
    assert main(["train", "method=full", "--cfg", "job"]) == 0
    assert "lr: 7" not in capsys.readouterr().out, "the user's tree must not shadow ours"
    assert main(["train", "method=bad"]) == 2
    assert "rnk" in capsys.readouterr().err
    (tmp_path / "conf/experiment").mkdir()
    axes = "hydra: {sweeper: {params: {method: 'lora,full', method.rank: '1,2'}}}\n"
    (tmp_path / "conf/experiment/mine.yaml").write_text(f"# @package _global_\n{axes}")
    assert main(["train", "experiment=mine", "debug=fast", "--dry-run"]) == 0
