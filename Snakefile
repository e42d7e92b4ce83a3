"""From nothing to every table and figure: one rule per notebook.

    prepare (one per shard of recordings) -> data -> forward_process, reverse_process, affinity, solutions,
    train (one per method and seed) -> score (one per other use of a trained model) -> ablations, robustness, efficiency;
    train -> baselines -> results; clinical_validity; then claims

`make reproduce` and `p2es reproduce` call it. By hand, or on a cluster, where the rules' threads and resources become
the job's request (any executor plugin works in the same way; nothing here is tied to the local machine):

    snakemake --cores 8 --config profile=quick dataset=simulated seeds=0,1,2
    snakemake --executor slurm --jobs 20 --config profile=full seeds=0,1,2 --set-resources train:slurm_extra="'--gres=gpu:1'"

What is stale: a step runs again when its notebook, an output of an earlier step, or a setting of its profile changed.
An edit of the library alone does not start hours of training again: after a change that alters results, remove the
executed notebooks in runs/<dataset>/<profile>/notebooks and call the workflow again. Each notebook then decides what it
can keep: prepared windows and finished runs are reused only where settings and data are the same.

Real recordings are prepared shard by shard (a long record, or a number of short ones), each by a job of its own. What
shards there are stands in data/prepared/<dataset>-<profile>.json, which `p2es reproduce` and `p2es data list` renew.
Their folders are no outputs either: a job looks for itself which of its records changed, and keeps the others.

Checkpoints and weights are no outputs of a rule, on purpose: Snakemake removes the outputs of a step that failed or was
killed, and these are what the next call continues from. The last file of a run, scores.parquet, is one.
"""

import json
import sys

from p2es_lib.core import paths
from p2es_lib.core.config import config_hash, get_config
from p2es_lib.experiments.runs import simulated_model_folder
from p2es_lib.core.learned import WEIGHTS_FILE
from p2es_lib.data.sources import parse_dataset
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
USES = [*TOLD, *SAMPLERS, *variants_of(PROFILE, "more_steps")]

PYTHON = sys.executable
NOTEBOOKS = paths.checkout() / "notebooks"
WINDOWS = f"data/windows/{DATASET}-{PROFILE}/settings.json"
FIGURES = f"figures/{DATASET}-{PROFILE}"
RUNS = f"runs/{DATASET}/{PROFILE}"
EXECUTED = f"{RUNS}/notebooks"
# On real recordings, 07 and 14 also show the model trained on simulated data: if there is one, it belongs to the results.
TRANSFER = simulated_model_folder(PROFILE) / WEIGHTS_FILE
TRANSFER = [str(TRANSFER)] if DATASET != "simulated" and TRANSFER.is_file() else []
# Recordings that name no ECG lead show when pulses follow beats, and nothing can be trained on them.
ROLES = {source.role for source in parse_dataset(DATASET)}
TIMING_ONLY = is_timing_only(DATASET)
# Real windows are also held against the simulated cohort.
DATA_FIGURES = ["fig01_cohort", "fig02_window"]
DATA_FIGURES += [] if "simulated" in ROLES else ["fig13_accepted_rejected", "fig14_recorded_simulated"]
# Whatever a setting of the profile changes, changes this.
SETTINGS = config_hash(get_config(PROFILE, DATASET))
# Minutes and memory that a cluster is asked for; a local run ignores them.
MINUTES = {"smoke": 30, "quick": 240, "wide": 12 * 60, "full": 24 * 60}[PROFILE]
TRAIN_MINUTES = {"smoke": 30, "quick": 240, "wide": 240, "full": 5 * 24 * 60}[PROFILE]
MEMORY_MB = {"smoke": 6000, "quick": 8000, "wide": 8000, "full": 32000}[PROFILE]

# Shards of recordings to prepare, and the state of their files; simulated data have none.
if not paths.jobs_file(DATASET, PROFILE).is_file():
    write_jobs(DATASET, PROFILE, MIRROR)
SHARDS = {(job["source"], job["shard"]): job["state"] for job in json.loads(paths.jobs_file(DATASET, PROFILE).read_text())}
PREPARED = f"data/prepared/.done/{DATASET}-{PROFILE}"

# exec: the notebook's process is then Snakemake's own child and ends with it. PASSIVE: a waiting thread must not take a
# core from the step beside it.
ENVIRONMENT = 'export P2ES_HOME="$PWD" OMP_NUM_THREADS={threads} OMP_WAIT_POLICY=PASSIVE; '
RUN = (
    ENVIRONMENT + "exec {PYTHON:q} -m p2es_lib.cli notebook {params.name} --dataset {DATASET} --profile {PROFILE} --stop-with-parent"
)


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


rule forward_process:
    input:
        notebook=NOTEBOOKS / "02_forward_process.ipynb",
        windows=WINDOWS,
    output:
        figure=f"{FIGURES}/fig03_forward_process.png",
        executed=f"{EXECUTED}/02_forward_process.ipynb",
    params:
        name="02_forward_process",
        settings=SETTINGS,
    threads: 1
    resources:
        runtime=MINUTES,
        mem_mb=MEMORY_MB,
    shell:
        RUN


rule reverse_process:
    input:
        notebook=NOTEBOOKS / "03_reverse_process.ipynb",
        windows=WINDOWS,
    output:
        figure=f"{FIGURES}/fig04_reverse_process.png",
        executed=f"{EXECUTED}/03_reverse_process.ipynb",
    params:
        name="03_reverse_process",
        settings=SETTINGS,
    threads: 1
    resources:
        runtime=MINUTES,
        mem_mb=MEMORY_MB,
    shell:
        RUN


rule affinity:
    input:
        notebook=NOTEBOOKS / "04_affinity.ipynb",
        windows=WINDOWS,
    output:
        figures=expand(f"{FIGURES}/{{name}}.png", name=["fig05_embedding_groups", "fig06_affinity"]),
        executed=f"{EXECUTED}/04_affinity.ipynb",
    params:
        name="04_affinity",
        settings=SETTINGS,
    threads: 1
    resources:
        runtime=MINUTES,
        mem_mb=MEMORY_MB,
    shell:
        RUN


rule solutions:
    input:
        notebook=NOTEBOOKS / "15_solutions.ipynb",
        # It runs their cells, not their outputs.
        exercises=[NOTEBOOKS / f"{name}.ipynb" for name in ("02_forward_process", "03_reverse_process", "04_affinity")],
        windows=WINDOWS,
    output:
        executed=f"{EXECUTED}/15_solutions.ipynb",
    params:
        name="15_solutions",
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


def scores_of(variants):
    """Last files of finished runs of these variants."""
    return [f"{RUNS}/{name}/seed{seed}/scores.parquet" for name in variants for seed in seeds_of(PROFILE, name, parse_seeds(SEEDS))]


rule score:
    input:
        windows=WINDOWS,
        weights=lambda wildcards: f"{RUNS}/{VARIANTS[wildcards.variant].weights_of}/seed{wildcards.seed}/scores.parquet",
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
        ENVIRONMENT + "exec {PYTHON:q} -m p2es_lib.cli score --dataset {DATASET} --profile {PROFILE} --stop-with-parent"
        " --variant {wildcards.variant} --seed {wildcards.seed}"


rule baselines:
    input:
        notebook=NOTEBOOKS / "06_baselines.ipynb",
        windows=WINDOWS,
        scores=scores_of([VARIANT, *BASELINES]),
        transfer=TRANSFER,
    output:
        figures=expand(f"{FIGURES}/{{name}}.png", name=["fig17_validation", "fig18_one_window"]),
        table=f"{FIGURES}/table07_methods.csv",
        executed=f"{EXECUTED}/06_baselines.ipynb",
    params:
        name="06_baselines",
        settings=SETTINGS,
        seeds=SEEDS,
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
        baselines=rules.baselines.output.table,
        scores=scores_of([VARIANT, *BASELINES]),
    output:
        figures=expand(
            f"{FIGURES}/{{name}}.png",
            name=["fig07_training", "fig08_stages", "fig09_overlay", "fig10_results", "fig11_decomposition", "fig12_learned_affinity"],
        ),
        tables=expand(f"{FIGURES}/{{name}}.csv", name=["table02_results", "table03_distance_to_floor"]),
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


rule ablations:
    input:
        notebook=NOTEBOOKS / "08_ablations.ipynb",
        windows=WINDOWS,
        scores=scores_of([VARIANT, *ABLATIONS, *USES]),
    output:
        figures=expand(f"{FIGURES}/{{name}}.png", name=["fig19_ablations", "fig20_sampler_steps", "fig28_error_by_time"]),
        tables=expand(f"{FIGURES}/{{name}}.csv", name=["table08_ablations", "table09_sampler_steps", "table24_error_by_time"]),
        executed=f"{EXECUTED}/08_ablations.ipynb",
    params:
        name="08_ablations",
        settings=SETTINGS,
        seeds=SEEDS,
    threads: 1
    resources:
        runtime=MINUTES,
        mem_mb=MEMORY_MB,
    shell:
        RUN + " --seeds {SEEDS}"


rule clinical_validity:
    input:
        notebook=NOTEBOOKS / "09_clinical_validity.ipynb",
        windows=WINDOWS,
        scores=scores_of([VARIANT, *BASELINES]),
    output:
        figures=expand(f"{FIGURES}/{{name}}.png", name=["fig21_bland_altman", "fig22_uncertainty"]),
        tables=expand(f"{FIGURES}/{{name}}.csv", name=["table10_agreement", "table11_uncertainty", "table12_realism"]),
        executed=f"{EXECUTED}/09_clinical_validity.ipynb",
    params:
        name="09_clinical_validity",
        settings=SETTINGS,
        seeds=SEEDS,
    priority: 6
    threads: 1
    resources:
        runtime=MINUTES,
        mem_mb=MEMORY_MB,
    shell:
        RUN + " --seeds {SEEDS}"


rule robustness:
    input:
        notebook=NOTEBOOKS / "10_robustness.ipynb",
        windows=WINDOWS,
        references=rules.baselines.output.table,
        scores=scores_of([*TRAINED, *TOLD]),
    output:
        figures=expand(f"{FIGURES}/{{name}}.png", name=["fig25_noise"]),
        tables=expand(f"{FIGURES}/{{name}}.csv", name=["table15_groups", "table16_demographics", "table17_noise"]),
        executed=f"{EXECUTED}/10_robustness.ipynb",
    params:
        name="10_robustness",
        settings=SETTINGS,
        seeds=SEEDS,
    threads: 1
    resources:
        runtime=MINUTES,
        mem_mb=MEMORY_MB,
    shell:
        RUN + " --seeds {SEEDS}"


rule efficiency:
    input:
        notebook=NOTEBOOKS / "11_efficiency.ipynb",
        windows=WINDOWS,
        scores=scores_of([VARIANT, *BASELINES, *SAMPLERS]),
    output:
        figures=expand(f"{FIGURES}/{{name}}.png", name=["fig26_frontier"]),
        tables=expand(f"{FIGURES}/{{name}}.csv", name=["table18_efficiency", "table19_long_signals", "table23_training"]),
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
        # Nothing runs beside it, so threads may wait awake, as in a program of its own: asleep, a call takes twice as long.
        RUN.replace("PASSIVE", "ACTIVE") + " --seeds {SEEDS}"


rule claims:
    input:
        notebook=NOTEBOOKS / "12_claims.ipynb",
        windows=WINDOWS,
        tables=[
            *rules.results.output.tables,
            *rules.ablations.output.tables,
            *rules.clinical_validity.output.tables,
            *rules.robustness.output.tables,
            *rules.efficiency.output.tables,
        ],
    output:
        tables=expand(f"{FIGURES}/{{name}}.csv", name=["table20_against_methods", "table21_claims"]),
        executed=f"{EXECUTED}/12_claims.ipynb",
    params:
        name="12_claims",
        settings=SETTINGS,
        seeds=SEEDS,
    threads: 1
    resources:
        runtime=MINUTES,
        mem_mb=MEMORY_MB,
    shell:
        RUN + " --seeds {SEEDS}"


rule own_ppg:
    input:
        notebook=NOTEBOOKS / "13_own_ppg.ipynb",
        windows=WINDOWS,
        scores=scores_of([VARIANT]),
    output:
        figure=f"{FIGURES}/fig29_own_ppg.png",
        table=f"{FIGURES}/table25_joins.csv",
        executed=f"{EXECUTED}/13_own_ppg.ipynb",
    params:
        name="13_own_ppg",
        settings=SETTINGS,
        seeds=SEEDS,
    threads: 1
    resources:
        runtime=MINUTES,
        mem_mb=MEMORY_MB,
    shell:
        RUN + " --seeds {SEEDS}"


rule sim_to_real:
    input:
        notebook=NOTEBOOKS / "14_sim_to_real.ipynb",
        windows=WINDOWS,
        weights=TRANSFER,
    output:
        figure=f"{FIGURES}/fig27_sim_to_real.png",
        table=f"{FIGURES}/table22_sim_to_real.csv",
        executed=f"{EXECUTED}/14_sim_to_real.ipynb",
    params:
        name="14_sim_to_real",
        settings=SETTINGS,
    threads: 1
    resources:
        runtime=MINUTES,
        mem_mb=MEMORY_MB,
    shell:
        RUN


# Last, because it names what the others make. All of it: a table, or a run, that somebody deleted is made again.
rule all:
    default_target: True
    input:
        rules.data.output,
        rules.sim_to_real.output if TRANSFER and ROLES & {"paired", "timing only"} else [],
        []
        if TIMING_ONLY
        else [
            rules.forward_process.output,
            rules.reverse_process.output,
            rules.affinity.output,
            rules.solutions.output,
            [expand(rules.train.output, variant=name, seed=seeds_of(PROFILE, name, parse_seeds(SEEDS))) for name in TRAINED],
            scores_of(USES),
            rules.baselines.output,
            rules.results.output,
            rules.ablations.output,
            rules.clinical_validity.output,
            rules.robustness.output,
            rules.efficiency.output,
            rules.claims.output,
        ],
        # Its example is a simulated subject.
        rules.own_ppg.output if DATASET == "simulated" else [],
