"""Process identity, ports, state file, control socket, jars: what the local stack stands on."""

import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from features.errors import FintrecError
from streams.local_stack import jars, stack
from streams.local_stack.control import ask
from streams.local_stack.processes import Process, free_ports, identify, is_free
from streams.local_stack.state import (
    ServerState,
    StackState,
    read_state,
    running_state,
    write_state,
)


def test_a_process_is_alive_until_it_ends_and_a_zombie_is_dead() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        process = identify(child.pid)
        assert process is not None
        assert process.is_alive()
        assert process.send(signal.SIGKILL)
        assert process.wait_gone(10_000)  # nobody has waited for it: it is a zombie
        child.wait()
    assert identify(child.pid) is None
    assert not process.send(signal.SIGKILL)


def test_a_recycled_pid_is_never_signalled() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        now = identify(child.pid)
        assert now is not None
        earlier = Process(child.pid, now.start_ticks - 100)
        assert not earlier.is_alive()
        assert not earlier.send(signal.SIGKILL)
        assert child.poll() is None
        child.kill()


def test_a_stack_whose_supervisor_pid_was_recycled_is_not_ended(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as bystander:
        now = identify(bystander.pid)
        assert now is not None
        write_state(tmp_path, StackState(supervisor=Process(now.pid, now.start_ticks - 1)))
        assert stack.stop(tmp_path) is False
        assert bystander.poll() is None
        bystander.kill()


def test_even_a_matching_process_is_left_alone_if_it_is_no_supervisor(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as bystander:
        now = identify(bystander.pid)
        assert now is not None
        write_state(tmp_path, StackState(supervisor=now))
        with pytest.raises(FintrecError, match="no supervisor: left alone"):
            stack.stop(tmp_path, timeout_ms=100)
        assert bystander.poll() is None
        bystander.kill()


def test_free_ports_are_free_different_and_below_the_ephemeral_range() -> None:
    ports = free_ports(6, random.Random(1))
    below = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert len(set(ports)) == 6
    assert all(is_free(port) for port in ports)
    assert below <= 21_000 or max(ports) < below


def test_a_port_in_use_is_not_given_out() -> None:
    first = free_ports(1, random.Random(2))[0]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", first))
        listener.listen()
        assert free_ports(1, random.Random(2)) != [first]


def test_the_state_file_reads_back_as_it_was_written(tmp_path: Path) -> None:
    state = StackState(
        supervisor=Process(1, 2),
        addresses={"kafka": "127.0.0.1:9"},
        model_repository="/models",
        servers={
            "kafka": ServerState(log="k.log", process=Process(3, 4)),
            "redis": ServerState(log="r.log", exit_code=-9),
        },
    )
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state
    assert [path.name for path in tmp_path.iterdir()] == ["stack.json"]
    assert running_state(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"supervisor": 1}'])
def test_a_foreign_state_file_is_a_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "stack.json").write_text(text)
    with pytest.raises(FintrecError, match="is not a state file of this version"):
        read_state(tmp_path)


def test_asking_where_nobody_listens_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FintrecError, match="no stack answers in"):
        ask(tmp_path, "end")


def test_a_supervisor_alone_ends_with_its_lifeline(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    # A path this long does not fit into a socket's address.
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    argv = [sys.executable, "-m", "streams.local_stack.supervisor", str(folder), str(read_end)]
    with subprocess.Popen(argv, pass_fds=(read_end,)) as supervisor:
        os.close(read_end)
        wait_for_state(folder)
        with pytest.raises(FintrecError, match=r"refused 'dance': ValueError: unknown verb"):
            ask(folder, "dance")
        log = folder / "sleep.log"
        ask(folder, "start", server="redis", argv=["sleep", "60"], env={}, cwd="/", log=str(log))
        state = read_state(folder)
        assert state is not None
        child = state.servers["redis"].process
        assert child is not None
        os.close(write_end)
        supervisor.wait(30)
    assert child.wait_gone(10_000)
    assert read_state(folder) is None


def wait_for_state(folder: Path) -> None:
    import time

    give_up = time.monotonic() + 30
    while running_state(folder) is None:
        assert time.monotonic() < give_up, "no supervisor"
        time.sleep(0.01)


def lock_of(tmp_path: Path, content: bytes) -> list[jars.Jar]:
    path = tmp_path / "jgo.lock.toml"
    path.write_text(
        '[[dependencies]]\ngroupId = "org.a"\nartifactId = "b"\nversion = "1"\n'
        f'packaging = "jar"\nsha256 = "{hashlib.sha256(content).hexdigest()}"\n'
    )
    return jars.read_lock(path)


def test_jars_in_the_cache_are_checked_and_not_fetched(tmp_path: Path) -> None:
    (jar,) = lock_of(tmp_path, b"good")
    path = jar.path(tmp_path)
    assert path == tmp_path / "org/a/b/1/b-1.jar"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"good")
    assert jars.fetch_jars([jar], tmp_path) == [path]


def test_a_jar_with_other_bytes_is_refused_and_set_aside(tmp_path: Path) -> None:
    (jar,) = lock_of(tmp_path, b"good")
    jar.path(tmp_path).parent.mkdir(parents=True)
    jar.path(tmp_path).write_bytes(b"evil")
    with pytest.raises(FintrecError, match="SHA-256"):
        jars.fetch_jars([jar], tmp_path)
    assert jars.missing_jars([jar], tmp_path) == [jar]


def test_a_lock_entry_without_a_hash_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "jgo.lock.toml"
    path.write_text('[[dependencies]]\ngroupId = "a"\nartifactId = "b"\nversion = "1"\n')
    with pytest.raises(FintrecError, match="expected a plain jar with its sha256"):
        jars.read_lock(path)


def test_the_projects_lock_is_that_of_its_specification() -> None:
    import tomllib

    lock = jars.lock_path()
    wanted = tomllib.loads(lock.with_name(jars.SPEC_NAME).read_text())["dependencies"]
    locked = {jar.coordinate for jar in jars.read_lock(lock)}
    for coordinate in wanted["coordinates"]:
        assert coordinate.rstrip("!") in locked
    for text in (lock.read_text(), lock.with_name(jars.SPEC_NAME).read_text()):
        assert "://" not in text


def test_last_words_hold_the_errors_that_stand_before_the_end(tmp_path: Path) -> None:
    log = tmp_path / "triton.log"
    table = "\n".join(f"| row {n} |" for n in range(60))
    log.write_text(f"I1124 fine\nE1124 10:00:00 model.cc:1] no such file\n{table}\nbye\n")
    words = stack.last_words(log).splitlines()
    assert words[0].endswith("no such file")
    assert words[-1] == "bye"
    assert stack.last_words(tmp_path / "none.log") == ""
