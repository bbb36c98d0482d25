"""The GPU kit on a CPU: every section runs, its numbers are what they say, and whatever goes wrong is one line."""

import copy
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from torch._dynamo.utils import counters

from benchmarks import gpu, table
from benchmarks.flops import counted_flops, needed_flops, utilisation
from benchmarks.gpu_kit import cells as cells_module
from benchmarks.gpu_kit import hot_spots, right, training
from benchmarks.gpu_kit.cells import Cell, Measured, Setup, describe_shortage, row_to_json, run_cells
from benchmarks.gpu_kit.feeding import steady_rate, waiting_share
from benchmarks.gpu_kit.generation import StepClock, fully_compiled, ratio
from benchmarks.gpu_kit.shapes import KINDS, SHAPES, cosmo_model, hold_for_training, random_inputs, training_inputs


ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
TINY = SHAPES["tiny"]
VARIANTS = list(TINY.variants)
SHORTAGE = (  # as torch 2.13 words it
    "CUDA out of memory. Tried to allocate 6.25 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.75 GiB is "
    "free. Including non-PyTorch memory, this process has 77.35 GiB memory in use."
)


@pytest.fixture
def setup(tmp_path):
    return Setup(shape=TINY, device=CPU, deadline=time.monotonic() + 200, folder=tmp_path)


def command(output, *words):
    return [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        "--output",
        str(output),
        "--shape",
        "tiny",
        "--device",
        "cpu",
        *words,
    ]


def quiet_environment(parity=None):
    known = {name: value for name, value in os.environ.items() if name != "COSMO_PARITY"}
    return known | {"OMP_NUM_THREADS": "1"} | ({"COSMO_PARITY": str(parity)} if parity else {})


@pytest.mark.slow  # a minute: six processes that import torch
@pytest.mark.timeout(900)
def test_every_section_runs_on_a_cpu(tmp_path, monkeypatch):
    """With time to spare: on a busy machine no section may come to its limit."""
    done = subprocess.run(
        command(tmp_path, "--minutes", "30"), cwd=ROOT, env=quiet_environment(), capture_output=True, text=True,
        timeout=840, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = gpu.read_rows(tmp_path / "results.jsonl")
    monkeypatch.delenv("COSMO_PARITY", raising=False)
    options = gpu.parse(["--output", str(tmp_path), "--shape", "tiny", "--device", "cpu"])
    planned = [(name, cell.name) for name in gpu.SECTIONS for cell in gpu.list_cells(name, options)]
    assert [(row["section"], row["name"]) for row in rows] == planned
    assert [row["name"] for row in rows if row["value"] is None] == []
    assert not list(tmp_path.glob("work-*")), "what a section needs is removed"

    by_name = {row["name"]: row for row in rows}
    step = by_name[f"utilisation, clips, {VARIANTS[0]}, eager"]
    figures, data = step["figures"], KINDS["clips"]
    assert step["value"] == pytest.approx(100 * figures["utilisation"])
    assert figures["samples_per_s"] == pytest.approx(figures["micro_batch"] / figures["step_s"])
    assert figures["tokens_per_s"] == pytest.approx(data.length * figures["samples_per_s"])
    model = cosmo_model(TINY, VARIANTS[0], CPU, torch.float32)
    needed = needed_flops(model.config, figures["micro_batch"], data.length, data.media, frames=data.frames)
    assert figures["needed_tflop"] == pytest.approx(needed / 1e12)
    assert by_name["memory of a frozen weight"]["value"] == 2
    assert len(by_name[f"training step, {VARIANTS[0]}: idle between kernels"]["figures"]["heaviest"]) == 20
    assert 0 < by_name["share of a step spent waiting for clips"]["value"] < 100

    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n\n## Model\n\nkept\n")
    monkeypatch.setattr(table, "PAGE", page)
    assert gpu.main(["--output", str(tmp_path), "--shape", "tiny", "--write"]) == 0
    text = page.read_text()
    assert "kept" in text
    assert "tiny on CPU, torch" in text
    assert all(f"| {name} | " in text for _, name in planned)
    assert "Heaviest kernels, training step" in text


@pytest.mark.parametrize("numbers", [(2, 2, 2), (2, 1, 1), (1, 2, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_operations_that_a_step_needs_are_those_that_it_does(kind, numbers):
    """By torch's own counter, which leaves out nothing; the projections of one vector a sample are under 1 %."""
    names = ("unimodal_depth", "cross_attention_interval", "compress_ratio")
    shape = replace(TINY, variants={"this": dict(zip(names, numbers, strict=True))})
    model = cosmo_model(shape, "this", CPU, torch.float32)
    model.set_attn_implementation("eager")  # whose products the counter sees one by one
    model.freeze_towers()
    inputs, data = training_inputs(TINY, kind, 3, CPU), KINDS[kind]
    counted = counted_flops(lambda: model.train()(**inputs, use_cache=False).loss.backward())
    needed = needed_flops(model.config, 3, data.length, data.media, frames=data.frames, contrastive=data.contrastive)
    assert needed == pytest.approx(counted, rel=0.01)


def test_utilisation_of_a_known_time(setup):
    now, took = [0.0], iter([9.0, 9.0, 0.5, 0.7, 0.4])  # two warm up

    def step():
        now[0] += next(took)

    figures = training.measure_step(step, setup, 6, 32, flops=2e9, peak=8e9, clock=lambda: now[0])
    assert figures["step_s"] == pytest.approx(0.5)
    assert figures["utilisation"] == pytest.approx(0.5)
    assert figures["samples_per_s"] == pytest.approx(12)
    assert figures["tokens_per_s"] == pytest.approx(384)
    assert utilisation(3e12, 2.0, 6e12) == pytest.approx(0.25)


def test_waiting_share_of_planted_sleeps():
    def batches():
        for number in range(5):
            time.sleep(0.09)
            yield number

    share, step_s = waiting_share(batches(), lambda _: time.sleep(0.03))
    assert share == pytest.approx(0.75, abs=0.1)  # sleeps run over on a busy machine
    assert step_s >= 0.12
    with pytest.raises(ValueError, match="no batches"):
        waiting_share([], print)


def test_the_rate_of_workers_leaves_out_their_start_and_end():
    """Three workers, a second a batch each, all at once; two batches a worker are there when the clock starts."""
    arrivals = [0.0] * 6 + [float(second) for second in range(1, 6) for _ in range(3)] + [9.0, 9.0, 9.0]
    now = iter(arrivals)
    assert steady_rate(range(24), 24, 3, clock=lambda: next(now)) == pytest.approx(3.0)


def test_ratios_of_generation_are_medians_over_rounds():
    times = {"plain": [1.0, 2.0, 4.0], "vision tower": [1.0, 1.0, 1.0], "cosmo": [4.0, 3.0, 15.0]}
    found = ratio(times, ["plain", "vision tower"], unit_s=1.0)
    assert found.value == pytest.approx(2.0)  # of 2, 1 and 3
    assert found.detail == "4.00 ms to plain 2.00 + vision tower 1.00 ms"


def test_a_compiled_way_that_was_none_is_refused(setup):
    with pytest.raises(RuntimeError, match="did not compile"), fully_compiled(setup):
        pass


def test_kernels_are_told_from_notes_about_them():
    kind = torch._C._autograd.DeviceType
    span = lambda start, end: SimpleNamespace(start=start, end=end)
    event = lambda name, device, note, start, end: SimpleNamespace(
        name=name, device_type=device, is_user_annotation=note, time_range=span(start, end)
    )
    events = [
        event("gemm", kind.CUDA, False, 1, 2), event("Optimizer.step", kind.CUDA, True, 0, 9),
        event("aten::mm", kind.CPU, False, 0, 1),
    ]  # fmt: skip
    assert hot_spots.device_kernels(SimpleNamespace(events=lambda: events)) == [("gemm", 1, 2)]


def test_batches_that_are_there_are_not_waited_for():
    share, _ = waiting_share([1, 2, 3], lambda _: time.sleep(0.03))
    assert share < 0.05


def test_idle_share_of_planted_kernels():
    kernels = [(0.0, 4.0), (2.0, 3.0), (3.0, 5.0), (8.0, 10.0)]  # one inside another, an overlap, a gap of three
    assert hot_spots.idle_share(reversed(kernels)) == (pytest.approx(0.3), 10.0)
    assert hot_spots.idle_share([(1.0, 1.0)]) == (0.0, 0.0)
    rows = hot_spots.heaviest_of([("a", 0, 3), ("b", 3, 4), ("a", 5, 8)], steps=2)
    assert rows[0] == {"name": "a", "share": pytest.approx(6 / 7), "ms": pytest.approx(0.003), "calls": 1.0}
    assert len(hot_spots.heaviest_of([(str(index), 0, index) for index in range(30)], 1)) == 20


def test_steps_of_generation_are_timed_without_the_first_ones():
    clock = StepClock(CPU)
    clock.marks = [0.0, 5.0, 6.0, 6.5, 7.0]
    assert clock.seconds_a_step() == pytest.approx(0.5)


def planted(path, source):
    """A function that seems to stand in a file of this path."""
    names = {}
    exec(compile(source, path, "exec"), names)
    return names["planted"]


@pytest.mark.parametrize(
    "source",
    [
        "x.sum().item()", "x.nonzero()", "bool((x > 0).all())", "x[x > 0]", "x.unique()",
        "x.repeat_interleave(x.long())", "x.long().bincount()", "x.masked_select(x > 0)", "x.equal(x)",
    ],
)  # fmt: skip
def test_places_where_the_host_waits_are_seen(source):
    own = planted("/somewhere/modeling_cosmo/planted_cosmo.py", f"def planted(x): return {source}")
    other = planted("/somewhere/transformers/planted.py", f"def planted(x): return {source}")
    with hot_spots.HostWaits() as waits:
        own(torch.ones(3))
        other(torch.ones(3))
        other(torch.ones(3))
        torch.ones(3).sum()
    assert (waits.count(own=True), waits.count(own=False)) == (1, 2)
    assert waits.places[0] == "modeling_cosmo/planted_cosmo.py:1"


def test_copies_between_host_and_device_are_seen():
    there = torch.empty(3, device="meta")
    for args, kwargs, changes in (
        ((there,), {"device": torch.device("cpu")}, True), ((torch.ones(3),), {"device": "meta"}, True),
        ((there, torch.ones(3)), {}, True), ((torch.ones(3),), {"dtype": torch.half}, False),
        ((there, there), {}, False), ((torch.ones(3), torch.ones(3)), {}, False),
    ):  # fmt: skip
        assert hot_spots._changes_sides(args, kwargs) == changes


def test_the_bound_of_bfloat16_is_no_blank_cheque(setup):
    """Bfloat16 stays under it; weights of two bits less do not."""
    assert right.half_precision(setup).value < 1
    model = cosmo_model(TINY, VARIANTS[0], CPU, torch.float32)
    inputs = random_inputs(TINY, CPU, rows=3, length=17, media=2)
    with torch.no_grad():
        expect = model(**inputs).logits
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.float8_e4m3fn))
        found = model(**inputs).logits
    assert (found - expect).norm() / expect.norm() > right.rounding_bound(model.config)


def test_a_gap_that_is_no_number_is_the_largest():
    assert right.largest(torch.tensor([1.0, float("nan")]), torch.ones(2)) == float("inf")
    assert right.largest(torch.tensor([1.0, 3.0]), torch.tensor([1.5, 1.0])) == 2.0


@pytest.mark.filterwarnings("ignore:::torch")  # torch's compilers warn about parts of torch
def test_layers_are_compiled_once_for_each_kind():
    """20 layers, a handful of graphs, the same loss and gradients."""
    shape = replace(
        TINY, text=dict(TINY.text) | {"num_hidden_layers": 12}, vision=dict(TINY.vision) | {"num_hidden_layers": 6},
        variants={"6/2/2": {"unimodal_depth": 6, "cross_attention_interval": 2, "compress_ratio": 2}},
    )  # fmt: skip
    model = hold_for_training(cosmo_model(shape, "6/2/2", CPU, torch.float32)).float()
    twin, inputs = copy.deepcopy(model), training_inputs(shape, "clips", 3, CPU)
    counters.clear()
    assert training.compile_layers(twin, CPU) == 20
    for one in (model, twin):
        one(**inputs).loss.backward()
    assert 4 <= counters["stats"]["unique_graphs"] <= 8
    gradients = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name].grad, parameter.grad, atol=2e-5, rtol=1e-4)
    torch._dynamo.reset()


def test_the_released_way_computes_the_same_loss(setup):
    """What is compared differs in speed and precision only; float16 rounds to 2**-11."""
    inputs = training_inputs(TINY, "clips", 2, CPU)
    seen = []
    with training.released_way(setup, VARIANTS[0]) as (model, optimizer, scaler):
        expect = cosmo_model(TINY, VARIANTS[0], CPU, torch.float32)(**inputs).loss
        scale = scaler.scale
        scaler.scale = lambda loss: (seen.append(loss.item()), scale(loss))[1]
        training.released_step(model, inputs, optimizer, scaler)()
    assert seen[0] == pytest.approx(expect.item(), rel=5e-3)


def test_a_larger_batch_that_does_not_fit_leaves_the_smaller_ones(setup, monkeypatch):
    monkeypatch.setattr(training, "WORSE", 0.0)
    model = hold_for_training(cosmo_model(TINY, VARIANTS[0], CPU, torch.bfloat16))
    step_of = training.training_step

    def short(model, inputs, optimizer):
        if len(inputs["input_ids"]) >= 4:
            raise torch.OutOfMemoryError(SHORTAGE)
        return step_of(model, inputs, optimizer)

    monkeypatch.setattr(training, "training_step", short)
    runs = training.sweep(setup, model, "pairs", (1, 3, 4, 5))
    assert [run["micro_batch"] for run in runs] == [1, 3]
    assert runs[-1]["next_failed"].startswith("4: OutOfMemoryError: CUDA out of memory.")
    with pytest.raises(torch.OutOfMemoryError):
        training.sweep(setup, model, "pairs", (4, 5))


def kept_rows(cells, setup):
    rows = []
    run_cells(cells, setup, lambda row, figures: rows.append(row))
    return rows


def fail(error):
    raise error


def test_what_cannot_be_measured_says_why_and_the_rest_goes_on(setup, monkeypatch):
    cells = [
        Cell(name="large", goal="<= 1", measure=lambda: fail(torch.OutOfMemoryError(SHORTAGE))),
        Cell(name="broken", measure=lambda: fail(KeyError("no such thing\nsecond line"))),
        Cell(name="fine", measure=lambda: Measured(value=3.0)),
    ]
    rows = kept_rows(cells, setup)
    assert rows[0].missing == "too little memory: 4.50 GiB more than the 1.75 GiB free of 79.11 GiB"
    assert rows[0].line() == f"| large | not measured | <= 1 | | {rows[0].missing} |"
    assert not rows[0].reached
    assert rows[1].missing.startswith("failed: KeyError: ")
    assert "\n" not in rows[1].missing
    assert rows[2].value == 3.0
    long = [replace(cells[2], needs_s=60.0)]
    soon = replace(setup, deadline=time.monotonic() + 30, device=torch.device("cuda"))
    assert kept_rows(long, replace(soon, device=CPU))[0].value == 3.0
    monkeypatch.setattr(cells_module, "free_memory", lambda device: None)  # there is no GPU to ask
    assert kept_rows(long, soon)[0].missing == "no time left: it takes at least 60 s"
    late = kept_rows(cells, replace(setup, deadline=time.monotonic() - 1))
    assert {row.missing for row in late} == {"no time left"}
    assert describe_shortage(torch.OutOfMemoryError("odd words")) == "too little memory: odd words"


@pytest.mark.parametrize(
    ("words", "culprit"),
    [
        (["--shape", "huge"], "--shape huge: expected one of cosmo-2.1b, tiny"),
        (["--sections", "right,wrong"], "--sections wrong: expected some of right, training"),
        (["--device", "tpu"], "--device tpu: expected cuda or cpu"),
        (["--minutes", "0"], "--minutes 0.0: expected more than 0"),
    ],
)
def test_a_wrong_call_is_one_line(words, culprit, tmp_path, capsys):
    assert gpu.main(["--output", str(tmp_path), "--device", "cpu", *words]) == 2
    error = capsys.readouterr().err
    assert culprit in error
    assert error.count("\n") == 1


def test_no_gpu_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--output", str(tmp_path)]) == 2
    assert "sees no CUDA device; --device cpu --shape tiny tries the kit itself" in capsys.readouterr().err
    assert not (tmp_path / "results.jsonl").exists()


def test_fixtures_that_are_not_there_are_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COSMO_PARITY", str(tmp_path / "away"))
    assert gpu.main(["--output", str(tmp_path), "--device", "cpu", "--sections", "right"]) == 2
    assert "away: expected a folder of parity fixtures" in capsys.readouterr().err


def test_a_page_of_no_folder_is_one_line(tmp_path, capsys):
    assert gpu.main(["--output", str(tmp_path / "away"), "--write"]) == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_a_section_that_is_killed_goes_on(tmp_path):
    """At a random moment, from outside; the cell that it was at is measured by the next process."""
    process = subprocess.Popen(
        command(tmp_path, "--sections", "generation"), cwd=ROOT, env=quiet_environment(), text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    while not (rows := gpu.read_rows(tmp_path / "results.jsonl")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    for child in psutil.Process(process.pid).children():
        child.send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    rows = gpu.read_rows(tmp_path / "results.jsonl")
    cells = gpu.list_cells("generation", gpu.parse(["--output", "x", "--shape", "tiny", "--device", "cpu"]))
    assert [row["name"] for row in rows] == [cell.name for cell in cells]
    assert all(row["value"] is not None for row in rows)


def dying(results, deaths):
    """In place of `run_process`: what a process leaves that dies at these cells, if it comes to them."""

    def run(options, name, deadline, skip):
        for index, cell in enumerate(gpu.list_cells(name, options)[skip:], start=skip):
            if index in deaths:
                return deaths[index]
            row = table.Row(name=cell.name, value=1.0)
            gpu.append(results, row_to_json(name, "here", row, {}))
        return ""

    return run


@pytest.mark.parametrize("deaths", [{0: "the section ended with exit status -11: see x"}, {2: "the section ended: y"}])
def test_a_cell_at_which_processes_die_is_passed_over(tmp_path, monkeypatch, deaths):
    results, options = tmp_path / "results.jsonl", gpu.parse(["--output", str(tmp_path), "--shape", "tiny"])
    monkeypatch.setattr(gpu, "run_process", dying(results, deaths))
    gpu.run_apart(options, "profile", 60, results, "here")
    rows, cells = gpu.read_rows(results), gpu.list_cells("profile", options)
    assert [row["name"] for row in rows] == [cell.name for cell in cells]
    assert {index: row["missing"] for index, row in enumerate(rows) if row["missing"]} == deaths


def test_a_section_that_ran_out_of_time_says_so_in_all_its_rows(tmp_path, monkeypatch):
    results, options = tmp_path / "results.jsonl", gpu.parse(["--output", str(tmp_path), "--shape", "tiny"])
    monkeypatch.setattr(gpu, "run_process", dying(results, {3: "stopped: not done 20 s after its time"}))
    gpu.run_apart(options, "profile", 60, results, "here")
    missing = [row["missing"] for row in gpu.read_rows(results)]
    assert missing[:3] == [""] * 3
    assert set(missing[3:]) == {"stopped: not done 20 s after its time"}
    assert len(missing) == len(gpu.list_cells("profile", options))


def test_an_error_of_the_device_ends_the_process_after_its_row(setup):
    cells = [Cell(name="broken", measure=lambda: fail(torch.AcceleratorError("an illegal access"))), None]
    rows = []
    with pytest.raises(torch.AcceleratorError):
        run_cells(cells, setup, lambda row, figures: rows.append(row))
    assert rows[0].missing == "failed: AcceleratorError: an illegal access"


def test_a_package_that_is_missing_is_one_line(tmp_path):
    code = "import sys; sys.modules['av'] = None; from benchmarks import gpu; sys.exit(gpu.main(sys.argv[1:]))"
    words = ["--output", str(tmp_path), "--shape", "tiny", "--device", "cpu", "--sections", "profile,input"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, env=quiet_environment(), capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "section input cannot be loaded: import of av halted" in done.stderr
    assert done.stderr.count("\n") == 1


def test_time_that_is_up_is_said_in_every_row(tmp_path):
    done = subprocess.run(
        command(tmp_path, "--sections", "profile", "--minutes", "0.0001"), cwd=ROOT, env=quiet_environment(),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {row["missing"] for row in gpu.read_rows(tmp_path / "results.jsonl")} == {"no time left"}


def test_a_torn_line_is_passed_over(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"section": "right"}\n{"section": "tra')
    gpu.end_of_line(path)
    gpu.append(path, json.dumps({"section": "profile"}))
    assert [row["section"] for row in gpu.read_rows(path)] == ["right", "profile"]
    gpu.end_of_line(tmp_path / "not there")


def test_the_page_takes_the_newest_rows_of_the_last_machine(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    monkeypatch.setattr(table, "PAGE", page)
    record = {"section": "training", "name": "memory of a frozen weight", "value": 2.0, "goal": "<= 2.0",
              "unit": "bytes", "detail": "", "missing": "", "figures": {}}  # fmt: skip
    fixture = record | {"section": "right", "name": "outputs of a fixture that is elsewhere", "value": 1e-6}
    lines = [
        fixture | {"machine": "card"}, record | {"machine": "old card", "value": 4.0},
        record | {"machine": "card", "value": 3.0},
        record | {"machine": "card"}, record | {"machine": "card", "value": None, "missing": "no time left"},
    ]  # fmt: skip
    (tmp_path / "results.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert gpu.main(["--output", str(tmp_path), "--write"]) == 0
    text = page.read_text()
    assert "| memory of a frozen weight | 2 bytes | <= 2.0 | yes |" in text
    assert "puts the rows here; measured: card." in text
    assert "old card" not in text
    assert text.count("| not measured |") > 20
    assert text.count("| outputs of ") == 1


def test_the_committed_page_has_every_row_and_the_rule(tmp_path, monkeypatch):
    """The fixtures' rows are named after the folder that was there; the others follow from the code."""
    monkeypatch.delenv("COSMO_PARITY", raising=False)
    options = gpu.parse(["--output", str(tmp_path)])
    section = re.search(r"^## GPU\n.*?(?=^## |\Z)", table.PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)[0]
    cells = [cell for name in gpu.SECTIONS for cell in gpu.list_cells(name, options)]
    for cell in cells:
        if not cell.name.startswith("outputs of"):
            assert f"| {cell.name} | " in section
            assert f"| {cell.goal} |" in section
    assert gpu.rule_of_operations() in section


def test_marked_tests_stand_where_the_kit_looks_for_them():
    marker = "mark." + "gpu"
    holders = [path for path in (ROOT / "tests").rglob("*.py") if marker in path.read_text()]
    assert holders
    assert all(path.parent == ROOT / "tests" / "gpu" for path in holders)
