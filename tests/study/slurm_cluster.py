"""A Slurm of two nodes on this machine, while it is wanted, by Debian's slurmctld, slurmd, slurm-client and munge.

A job that is requeued waits for its credential to expire, here 5 s in place of 120.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
from fake_task import until

NEEDS = ("slurmctld", "slurmd", "sbatch", "munged")
_CONF = """
ClusterName=rankwise
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0
ReturnToService=2
JobRequeue=1
KillWait=3
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=2 RealMemory={memory} State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=2 RealMemory={memory} State=UNKNOWN
PartitionName=cpu Nodes=n1,n2 Default=YES MaxTime=60 State=UP
"""


def can_run() -> bool:
    """Whether its programs are here, and this user may start them."""
    return os.geteuid() == 0 and all(map(shutil.which, NEEDS))


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """Started in an empty ``folder`` and ended on leaving; ``SLURM_CONF`` names it meanwhile."""
    memory = re.search(r"RealMemory=(\d+)", subprocess.run(["slurmd", "-C"], text=True, capture_output=True).stdout)
    assert memory, "slurmd -C tells no memory"
    names = dict(zip(("port", "first", "second"), _free_ports(3), strict=True))
    conf = folder / "slurm.conf"
    conf.write_text(_CONF.format(folder=folder, host=socket.gethostname().split(".")[0], memory=memory[1], **names))
    for name in ("state", "spool.n1", "spool.n2"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid"}
    files |= {"log-file": "munge.log", "seed-file": "munge.seed"}
    os.environ["SLURM_CONF"] = str(conf)
    try:
        subprocess.run(["munged", "--force", *(f"--{key}={folder / name}" for key, name in files.items())], check=True)
        subprocess.run(["slurmctld", "-c", "-f", conf], check=True)
        for node in ("n1", "n2"):
            subprocess.run(["slurmd", "-c", "-N", node, "-f", conf], check=True)
        until(lambda: _told("sinfo", "-h", "-t", "idle", "-o", "%D") == "2", 30)
        yield
    finally:
        del os.environ["SLURM_CONF"]
        for file in folder.glob("*.pid"):
            with contextlib.suppress(psutil.Error, ValueError):
                psutil.Process(int(file.read_text())).terminate()


def _told(*command: str) -> str:
    return subprocess.run(command, text=True, capture_output=True).stdout.strip()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
