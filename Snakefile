"""From nothing to every table and figure: one rule per notebook.

    prepare (one per shard of recordings) -> data -> forward_process, reverse_process, affinity, solutions;
    data -> train (one per method and seed) -> score (one per other use of a trained model);
    train, score -> baselines, results, ablations, clinical_validity, robustness, efficiency -> claims

`make reproduce` and `p2es reproduce` call it. It can also be called by hand, or on a cluster through any of Snakemake's
executor plugins, which ask for the threads and resources of each rule:

    snakemake --cores 8 --config profile=quick dataset=simulated seeds=0,1,2
    snakemake --executor slurm --jobs 20 --config profile=full seeds=0,1,2 \\
      --set-resources train:slurm_extra="'--gres=gpu:1'"

A step runs again when its notebook, an output of an earlier step, or a setting of its profile changed. A change of the
library alone does not start hours of training again: if it alters results, remove the executed notebooks in
runs/<dataset>/<profile>/notebooks and call the workflow again. Each notebook then keeps what it can: windows and runs
whose settings and data are the same.

Real recordings are prepared in shards (one long record, or a number of short ones), each by a job of its own. The file
data/prepared/<dataset>-<profile>.json lists them; `p2es reproduce` and `p2es data list` renew it. The folders of the
shards are not outputs of a rule: a job finds out which of its records changed, and keeps the others.

Checkpoints and weights are not outputs of a rule either: Snakemake removes the outputs of a step that failed or was
killed, and the next call continues from these files. The last file of a run, scores.parquet, is an output.
"""

import json
import sys

from p2es_lib.core import paths
from p2es_lib.core.weights import WEIGHTS_FILE, simulated_model_folder
from p2es_lib.data.sources import parse_dataset
from p2es_lib.experiments.runs import settings_name
from p2es_lib.experiments.variants import VARIANTS, parse_seeds, seeds_of, variants_of
from p2es_lib.companion.workflow import is_timing_only, write_jobs

# Relative paths below are in $P2ES_HOME.
workdir: str(paths.home())

DATASET = str(config.get("dataset") or "simulated")
PROFILE = str(config.get("profile") or "quick")
SEEDS = ",".join(str(config.get("seeds", "0")).replace(" ", "").split(","))
MIRROR = str(config.get("mirror") or "")
VARIANT = "p2es"
BASELINES = variants_of(PROFILE, "baselines")
# Some variants only use a trained model differently: those need no training of their own.
ABLATIONS = [name for name in variants_of(PROFILE, "ablations") if not VARIANTS[name].weights_of]
TRAINED = [VARIANT, *BASELINES, *ABLATIONS]
TOLD = [name for name in variants_of(PROFILE, "ablations") if VARIANTS[name].weights_of]
SAMPLERS = variants_of(PROFILE, "samplers")
# With a reference of the person; for real recordings see notebook 17.
REFERENCED = [name for kind in ("references", "references_of_others") for name in variants_of(PROFILE, kind, DATASET)]
USES = [*TOLD, *SAMPLERS, *variants_of(PROFILE, "more_steps"), *REFERENCED]

PYTHON = sys.executable
NOTEBOOKS = paths.checkout() / "notebooks"
WINDOWS = f"data/windows/{DATASET}-{PROFILE}/settings.json"
FIGURES = f"figures/{DATASET}-{PROFILE}"
RUNS = f"runs/{DATASET}/{PROFILE}"
EXECUTED = f"{RUNS}/notebooks"
# On real recordings, 06, 14 and 17 also show the model trained on simulated data, if there is one.
TRANSFER = simulated_model_folder(PROFILE) / WEIGHTS_FILE
TRANSFER = [str(TRANSFER)] if DATASET != "simulated" and TRANSFER.is_file() else []
# Recordings that name no ECG lead show when pulses follow beats, and nothing can be trained on them.
ROLES = {source.role for source in parse_dataset(DATASET)}
TIMING_ONLY = is_timing_only(DATASET)
# Real windows are also held against the simulated cohort.
DATA_FIGURES = ["fig01_cohort", "fig02_window"]
DATA_FIGURES += [] if "simulated" in ROLES else ["fig13_accepted_rejected", "fig14_recorded_simulated"]
# Whatever a setting of the profile changes, changes this.
SETTINGS = settings_name(DATASET, PROFILE)
# Minutes and memory that a cluster is asked for; a local run ignores them.
MINUTES = {"smoke": 30, "quick": 240, "wide": 12 * 60, "full": 24 * 60}[PROFILE]
TRAIN_MINUTES = {"smoke": 30, "quick": 240, "wide": 240, "full": 5 * 24 * 60}[PROFILE]
MEMORY_MB = {"smoke": 6000, "quick": 8000, "wide": 8000, "full": 32000}[PROFILE]

# Shards of recordings to prepare, and the state of their files; simulated data have none.
if not paths.jobs_file(DATASET, PROFILE).is_file():
    write_jobs(DATASET, PROFILE, MIRROR)
JOBS = json.loads(paths.jobs_file(DATASET, PROFILE).read_text())
SHARDS = {(job["source"], job["shard"]): job["state"] for job in JOBS}
PREPARED = f"data/prepared/.done/{DATASET}-{PROFILE}"

# exec: the notebook's process is then Snakemake's own child and ends with it. PASSIVE: a waiting thread must not take a
# core from the step beside it.
ENVIRONMENT = 'export P2ES_HOME="$PWD" OMP_NUM_THREADS={threads} OMP_WAIT_POLICY=PASSIVE; '
SETTINGS_GIVEN = " --dataset {DATASET} --profile {PROFILE} --stop-with-parent"
RUN = ENVIRONMENT + "exec {PYTHON:q} -m p2es_lib.cli notebook {params.name}" + SETTINGS_GIVEN


wildcard_constraints:
    variant=r"[a-z0-9_]+",
    source=r"[a-z0-9-]+",
    shard=r"[A-Za-z0-9._-]+",
    seed=r"\d+",


rule prepare:
    output:
        done=f"{PREPARED}/{{source}}/{{shard}}",
    params:
        settings=SETTINGS,
        state=lambda wildcards: SHARDS[wildcards.source, wildcards.shard],
        mirror=f"--mirror {MIRROR!r}" if MIRROR else "",
    threads: 1
    resources:
        runtime=MINUTES,
        mem_mb=2000,
    shell:
        'export P2ES_HOME="$PWD" OMP_NUM_THREADS=1; '
        "{PYTHON:q} -m p2es_lib.cli data prepare {DATASET:q} --profile {PROFILE} {params.mirror} --stop-with-parent"
        " --shard {wildcards.source}/{wildcards.shard} && touch {output.done:q}"


rule data:
    input:
        notebook=NOTEBOOKS / "01_data.ipynb",
        shards=[f"{PREPARED}/{source}/{shard}" for source, shard in SHARDS],
    output:
        windows=WINDOWS,
        figures=expand(f"{FIGURES}/{{name}}.png", name=DATA_FIGURES),
        table=f"{FIGURES}/table01_cohort.csv",
        executed=f"{EXECUTED}/01_data.ipynb",
    # The mirror is no parameter here: where recordings were read from does not make them stale.
    params:
        name="01_data",
        settings=SETTINGS,
    threads: 2
    resources:
        runtime=MINUTES,
        mem_mb=MEMORY_MB,
    shell:
        RUN + (" --mirror {MIRROR:q}" if MIRROR else "")


def figures(*names):
    return [f"{FIGURES}/{name}.png" for name in names]


def tables(*names):
    return [f"{FIGURES}/{name}.csv" for name in names]


#: Rules that need the windows alone: notebook, what else they read, what they make.
TEACHING = ("02_forward_process", "03_reverse_process", "04_affinity")
SIMPLE = {
    "forward_process": ("02_forward_process", [], figures("fig03_forward_process")),
    "reverse_process": ("03_reverse_process", [], figures("fig04_reverse_process")),
    "affinity": ("04_affinity", [], figures("fig05_embedding_groups", "fig06_affinity")),
    # It runs cells of the teaching notebooks, and does not read their outputs.
    "solutions": ("15_solutions", [NOTEBOOKS / f"{name}.ipynb" for name in TEACHING], []),
    "sim_to_real": ("14_sim_to_real", TRANSFER, [*figures("fig27_sim_to_real"), *tables("table22_sim_to_real")]),
    "reference_real": (
        "17_reference_real", TRANSFER, [*figures("fig34_reference_by_time"), *tables("table32_reference_by_time")]
    ),
}
# They carry a model from simulation to real recordings.
REAL_ONLY = ("sim_to_real", "reference_real")
for step, (name, reads, makes) in SIMPLE.items():

    rule:
        name: step
        input:
            notebook=NOTEBOOKS / f"{name}.ipynb",
            windows=WINDOWS,
            others=reads,
        output:
            makes=makes,
            executed=f"{EXECUTED}/{name}.ipynb",
        params:
            name=name,
            settings=SETTINGS,
        threads: 1
        resources:
            runtime=MINUTES,
            mem_mb=MEMORY_MB,
        shell:
            RUN


rule train:
    input:
        notebook=NOTEBOOKS / "05_train.ipynb",
        windows=WINDOWS,
    wildcard_constraints:
        variant="|".join(TRAINED),
    output:
        scores=f"{RUNS}/{{variant}}/seed{{seed}}/scores.parquet",
        executed=f"{EXECUTED}/05_train-{{variant}}-seed{{seed}}.ipynb",
    params:
        name="05_train",
        settings=SETTINGS,
    # First in line: the longest steps (then come 09 and scores) should not wait for the short ones. One core each: two
    # trainings side by side do more steps a second than one after the other on both cores.
    priority: 10
    threads: 1
    resources:
        runtime=TRAIN_MINUTES,
        mem_mb=MEMORY_MB,
    shell:
        RUN + " --variant {wildcards.variant} --seed {wildcards.seed}"


def runs_of(variants):
    return [(name, seed) for name in variants for seed in seeds_of(PROFILE, name, parse_seeds(SEEDS))]


def scores_of(variants):
    """Last files of finished runs of these variants."""
    return [f"{RUNS}/{name}/seed{seed}/scores.parquet" for name, seed in runs_of(variants)]


rule score:
    input:
        windows=WINDOWS,
        weights=lambda run: f"{RUNS}/{VARIANTS[run.variant].weights_of}/seed{run.seed}/scores.parquet",
    wildcard_constraints:
        variant="|".join(USES),
    output:
        scores=f"{RUNS}/{{variant}}/seed{{seed}}/scores.parquet",
    params:
        settings=SETTINGS,
    priority: 5
    threads: 1
    resources:
        runtime=MINUTES,
        mem_mb=MEMORY_MB,
    shell:
        ENVIRONMENT + "exec {PYTHON:q} -m p2es_lib.cli score" + SETTINGS_GIVEN
        + " --variant {wildcards.variant} --seed {wildcards.seed}"


#: Rules that sum up trainings: notebook, what they read besides the windows, what they make.
SUMMARIES = {
    "baselines": (
        "06_baselines",
        scores_of([VARIANT, *BASELINES]) + TRANSFER,
        [*figures("fig17_validation", "fig18_one_window"), *tables("table07_methods")],
    ),
    "ablations": (
        "08_ablations",
        scores_of([VARIANT, *ABLATIONS, *(name for name in USES if name not in REFERENCED)]),
        [
            *figures("fig19_ablations", "fig20_sampler_steps", "fig28_error_by_time"),
            *tables("table08_ablations", "table09_sampler_steps", "table24_error_by_time"),
        ],
    ),
    "clinical_validity": (
        "09_clinical_validity",
        scores_of([VARIANT, *BASELINES]),
        [
            *figures("fig21_bland_altman", "fig22_uncertainty"),
            *tables("table10_agreement", "table11_uncertainty", "table12_realism"),
        ],
    ),
    "robustness": (
        "10_robustness",
        [*tables("table07_methods"), *scores_of([*TRAINED, *TOLD])],
        [*figures("fig25_noise"), *tables("table15_groups", "table16_demographics", "table17_noise")],
    ),
    "own_ppg": (
        "13_own_ppg",
        scores_of([VARIANT]),
        [*figures("fig29_own_ppg"), *tables("table25_joins")],
    ),
    # Notebook 06 scores the beats that are pasted, and the irreducible error.
    "reference": (
        "16_reference",
        [*tables("table07_methods"), *scores_of([VARIANT, *REFERENCED])],
        [
            *figures("fig30_regimes", "fig31_reference_leads", "fig32_changes", "fig33_one_change"),
            *figures("fig35_methods_by_regime"),
            *tables("table28_references", "table29_reference_gain", "table30_coherence", "table31_changes"),
            *tables("table33_others_by_regime"),
        ],
    ),
}
# Their people are simulated.
SIMULATED_ONLY = ("own_ppg", "reference")
RESULTS = tables("table02_results", "table03_distance_to_floor")
EFFICIENCY = tables("table18_efficiency", "table19_long_signals", "table23_training")
JUDGED = ["ablations", "clinical_validity", "robustness", *(["reference"] if DATASET == "simulated" else [])]
JUDGED = [path for step in JUDGED for path in SUMMARIES[step][2]]
SUMMARIES["claims"] = (
    "12_claims",
    [*RESULTS, *EFFICIENCY, *(path for path in JUDGED if path.endswith(".csv"))],
    tables("table20_against_methods", "table21_claims"),
)
for step, (name, reads, makes) in SUMMARIES.items():

    rule:
        name: step
        input:
            notebook=NOTEBOOKS / f"{name}.ipynb",
            windows=WINDOWS,
            others=reads,
        output:
            makes=makes,
            executed=f"{EXECUTED}/{name}.ipynb",
        params:
            name=name,
            settings=SETTINGS,
            seeds=SEEDS,
        # The longest of these comes first.
        priority: 6 if step == "clinical_validity" else 0
        threads: 1
        resources:
            runtime=MINUTES,
            mem_mb=MEMORY_MB,
        shell:
            RUN + " --seeds {SEEDS}"


rule results:
    input:
        notebook=NOTEBOOKS / "07_results.ipynb",
        windows=WINDOWS,
        others=[*tables("table07_methods"), *scores_of([VARIANT, *BASELINES])],
    output:
        makes=[
            *figures("fig07_training", "fig08_stages", "fig09_overlay", "fig10_results", "fig11_decomposition"),
            *figures("fig12_learned_affinity"),
            *RESULTS,
        ],
        executed=f"{EXECUTED}/07_results.ipynb",
    params:
        name="07_results",
        settings=SETTINGS,
        seeds=SEEDS,
    threads: 1
    resources:
        runtime=MINUTES,
        mem_mb=MEMORY_MB,
    shell:
        RUN + " --variant {VARIANT} --seeds {SEEDS}"


rule efficiency:
    input:
        notebook=NOTEBOOKS / "11_efficiency.ipynb",
        windows=WINDOWS,
        others=scores_of([VARIANT, *BASELINES, *SAMPLERS]),
    output:
        makes=[*figures("fig26_frontier"), *EFFICIENCY],
        executed=f"{EXECUTED}/11_efficiency.ipynb",
    params:
        name="11_efficiency",
        settings=SETTINGS,
        seeds=SEEDS,
    # Two, although it could do with one: what runs beside it would be measured with it.
    threads: 2
    resources:
        runtime=MINUTES,
        mem_mb=MEMORY_MB,
    shell:
        # Nothing runs beside it, so threads may wait awake: asleep, a call takes twice as long.
        RUN.replace("PASSIVE", "ACTIVE") + " --seeds {SEEDS}"


# Last, because it names what the others make. All of it: a table, or a run, that somebody deleted is made again.
rule all:
    default_target: True
    input:
        rules.data.output,
        rules.sim_to_real.output if TRANSFER and ROLES & {"paired", "timing only"} else [],
        []
        if TIMING_ONLY
        else [
            [getattr(rules, step).output for step in SIMPLE if step not in REAL_ONLY],
            rules.reference_real.output if TRANSFER else [],
            scores_of(TRAINED),
            [f"{EXECUTED}/05_train-{name}-seed{seed}.ipynb" for name, seed in runs_of(TRAINED)],
            scores_of(USES),
            [getattr(rules, step).output for step in SUMMARIES if step not in SIMULATED_ONLY],
            rules.results.output,
            rules.efficiency.output,
        ],
        [getattr(rules, step).output for step in SIMULATED_ONLY] if DATASET == "simulated" else [],
