"""What a shell is offered where a line of ``rankwise`` may go on."""

import re

import pytest

from rankwise.cli import SHELLS, main
from rankwise.commands.adapter import ABOUT


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_is_installed_for_the_command_alone(shell, capsys):
    assert main(["-sc", f"install={shell}"]) == 0
    script = capsys.readouterr().out
    assert ("compinit" in script) == (shell == "zsh")
    registered = re.findall(r"^ *comp(?:lete|def) -?.*", script, re.MULTILINE)
    assert registered and all("rankwise" in line and "train" not in line for line in registered)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("", {"find", "train", "report"}),
        ("tr", {"train"}),
        ("train meth", {"method="}),
        ("plan method.ra", {"method.rank="}),
        ("train -m seed=0,1 method.ra", {"method.rank="}),
        ("find method=", {"method=lora", "method=full"}),
        ("train trainer.precision=bf", {"trainer.precision=bf16", "trainer.precision=bf16_true"}),
        ("train -m method=lora,fu", {"method=lora,full"}),
        ("train experiment=paper/lora_t6", {"experiment=paper/lora_t6", "experiment=paper/lora_t6_proxy"}),
        ("train hydra/launcher=", {"hydra/launcher=local", "hydra/launcher=slurm"}),
        ("plan --gpu a100", {"a100-40gb", "a100-80gb"}),
        ("train seed=0 --dr", {"--dry-run"}),
        ("train --cfg j", {"job"}),
        ("adapter ", set(ABOUT)),
        ("adapter merge --dtype b", {"bf16"}),
        ("analyze sp", {"spectrum"}),
        ("train task.path=fo", {"task.path=folder/"}),
        ("report fo", {"folder/"}),
    ],
)
def test_completion_knows_commands_groups_options_keys_flags_and_files(line, offered, tmp_path, zygote):
    (tmp_path / "here" / "folder").mkdir(parents=True)
    told, line = tmp_path / "told", f"rankwise {line}"
    asked = {"": "1", "_IFS": " ", "_COMP_WORDBREAKS": "", "_STDOUT_FILENAME": str(told)}
    shell = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": ""}
    done = zygote.rankwise(tmp_path / "here", **shell, **{f"_ARGCOMPLETE{name}": asked[name] for name in asked})
    assert done.returncode == 0 and offered <= set(told.read_text().split())
