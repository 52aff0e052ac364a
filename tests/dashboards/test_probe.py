import subprocess, sys, os, time
from tiny_configs import tiny
from rankwise.config import plain
from wandb_server import ContractServer
from conftest import nobody
def test_probe(tmp_path, zygote, rankwise):
    c=tiny("bert","lora",outputs=str(tmp_path),study="s2",tracking__mode="offline",tracking__project="proj2")
    with ContractServer() as server:
        assert zygote(tmp_path/"c","run",plain(c),**nobody(tmp_path)).wait(100)==0
        d=rankwise("dashboard", tmp_path/"s2", **server.env()); print(d.stdout,d.stderr)
        cmd=[l.split("  (")[0].split(None,1)[1] for l in d.stdout.splitlines() if l.startswith("sync")][0]
        env={**os.environ,**nobody(tmp_path),**server.env(),"PATH":"/tmp/w/dev/bin:"+os.environ["PATH"]}
        print(cmd, subprocess.run(cmd,shell=True,env=env,capture_output=True,text=True).returncode, server.runs)
        d=rankwise("dashboard", tmp_path/"s2", **server.env()); print(d.stdout,d.stderr)
        t=time.time(); d=rankwise("report", "wandb:tester/proj2", **server.env()); print(time.time()-t,d.stdout[-300:],d.stderr)
        print(server.unknown)
