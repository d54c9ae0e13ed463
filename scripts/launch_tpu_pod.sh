#!/usr/bin/env bash
# A training on a Cloud TPU, from this machine: creates the TPU, installs the
# project there, starts the training on its first worker, which drives all
# others, and looks after it.
#
#   ./scripts/launch_tpu_pod.sh COMMAND --name=NAME --zone=ZONE [OPTIONS] \
#       [FLAGS]
#
#   create        makes the TPU; with --queued once there is one to be had
#   install       brings this checkout to all workers, with all that it requires
#                 but TensorFlow: the image has one that knows TPUs
#   start FLAGS   trains, under scripts/supervise.sh; FLAGS are those of python
#                 -m vatt.main. Data and workdir of several hosts are in gs://
#   tail          shows the log as it grows; Ctrl-C ends that alone
#   status        of the TPU and the training
#   stop          has the training save, and waits for that; the same start goes
#                 on
#   delete        gives the TPU back
#   requirements  prints what install installs; needs no name
#
#   --type=v3-256     of the TPU, by its cores; more than 8 are several hosts
#   --version=IMAGE   (default: tpu-vm-tf-2.15.0-pod-pjrt, or for one host
#                     tpu-vm-tf-2.15.0-pjrt)
#   --project=NAME    (default: gcloud's)
#   --queued          create, status and delete a queued resource
#   --valid_until=6h  how long to stay in the queue (default: for ever)
#   --spot            cheaper, and may be taken away at any time: then delete,
#                     create, install, and start again
#   --dry_run         prints what would run
#   --help            prints this
#
# gcloud has to be installed and logged in.
set -euo pipefail
unset CDPATH  # which may lead elsewhere

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/launching.sh
source "$root/scripts/launching.sh"
command=${1:-}
if [[ $command != --help ]]; then shift || true; fi
name="" zone="" type=v3-256 version="" project="" queued="" valid_until=""
spot="" dry_run=""
options flags \
  "name= zone= type= version= project= queued valid_until= spot dry_run" "$@"
set -- ${rest[@]+"${rest[@]}"}

case $command in
  create | install | start | tail | status | stop | delete)
    [[ $name =~ ^[a-z][a-z0-9-]*$ ]] || usage "--name is '$name', expected" \
      "lower-case letters, digits and -, a letter first"
    [[ $zone =~ ^[a-z0-9-]+$ ]] ||
      usage "--zone is '$zone', expected one such as europe-west4-a"
    [[ $type =~ ^v[234]-[1-9][0-9]{0,4}$ ]] ||
      usage "--type is '$type', expected v2-, v3- or v4- and a number of cores"
    [[ -z $valid_until || -n $queued ]] ||
      usage "--valid_until is '$valid_until', expected with --queued" ;;
  requirements) ;;
  *) usage "'$command': expected create, install, start, tail, status, stop," \
    "delete or requirements, then options" ;;
esac
(($# == 0)) || [[ $command == start ]] ||
  usage "$1: expected with start, or an option of this script"

pod=""
if ((${type#*-} > 8)); then pod=yes; fi
version=${version:-tpu-vm-tf-2.15.0${pod:+-pod}-pjrt}
where=("--zone=$zone")
if [[ -n $project ]]; then where+=("--project=$project"); fi

# Runs gcloud compute tpus, or says what it would run.
tpus() {
  if [[ -n $dry_run ]]; then
    line gcloud compute tpus "$@"
  else
    gcloud compute tpus "$@"
  fi
}

# Runs a shell's line on a worker, by its number or all.
on_worker() {
  tpus tpu-vm ssh "$name" "${where[@]}" "--worker=$1" "--command=$2"
}

# shellcheck disable=SC2016  # for a shell there
running='{ kill -0 "$(cat vatt.pid)"; } 2>/dev/null'
refuse="if $running; then echo \"error: a training runs, stop it first\" >&2;\
 exit 1; fi"

case $command in
  create)
    also=()
    if [[ -n $spot ]]; then also+=(--spot); fi
    if [[ -n $valid_until ]]; then
      also+=("--valid-until-duration=$valid_until")
    fi
    if [[ -n $queued ]]; then
      tpus queued-resources create "$name" "${where[@]}" "--node-id=$name" \
        "--accelerator-type=$type" "--runtime-version=$version" \
        ${also[@]+"${also[@]}"}
    else
      tpus tpu-vm create "$name" "${where[@]}" "--accelerator-type=$type" \
        "--version=$version" ${also[@]+"${also[@]}"}
    fi ;;

  install)
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    pack=(tar -czf "$folder/vatt.tar.gz" -C "$root" --exclude=__pycache__
      vatt configs scripts setup.py README.md LICENSE MANIFEST.in)
    if [[ -n $dry_run ]]; then line "${pack[@]}"; else "${pack[@]}"; fi
    tpus tpu-vm scp "$folder/vatt.tar.gz" "$name:vatt.tar.gz" "${where[@]}" \
      --worker=all
    on_worker all "set -eo pipefail; $refuse; mkdir -p vatt; cd vatt; rm -rf\
 vatt configs scripts; tar -xzf ../vatt.tar.gz; scripts/launch_tpu_pod.sh\
 requirements | python3 -m pip install -q -r /dev/stdin; python3 -m pip install\
 -q --no-deps ." ;;

  start)
    workdir="" data_dir=""
    for flag in "$@"; do
      case $flag in
        --workdir=*) workdir=${flag#*=} ;;
        --config.data.data_dir=*) data_dir=${flag#*=} ;;
        --tpu=* | --config.strategy.name=* | --config.strategy.tpu=*)
          usage "$flag: expected none, as the TPU is that of --name" ;;
      esac
    done
    [[ -n $workdir ]] || usage "no --workdir=DIR, expected it in the flags"
    if [[ -n $pod ]]; then
      [[ $workdir == gs://* ]] || usage "--workdir is '$workdir', expected" \
        "gs://BUCKET/...: no disk is common to the hosts of $type"
      [[ -z $data_dir || $data_dir == gs://* ]] || usage \
        "--config.data.data_dir is '$data_dir', expected gs://BUCKET/...: all" \
        "hosts of $type read it"
      # One client: the workers' own servers have the chips, it must not.
      environment=("TPU_NAME=$name" TPU_LOAD_LIBRARY=0)
      tpu=$name
    else
      environment=(NEXT_PLUGGABLE_DEVICE_USE_C_API=true
        TF_PLUGGABLE_DEVICE_LIBRARY_PATH=/lib/libtpu.so)
      tpu=local
    fi
    train=$(line env "${environment[@]}" scripts/supervise.sh -- \
      python3 -m vatt.main "--tpu=$tpu" "$@")
    on_worker 0 "$refuse; cd vatt && { nohup $train </dev/null >>../vatt.log\
 2>&1 & echo \$! >../vatt.pid; }" ;;

  tail)
    on_worker 0 "tail -n 100 -F vatt.log" ;;

  status)
    if [[ -n $queued ]]; then
      tpus queued-resources describe "$name" "${where[@]}" \
        "--format=value(state.state)"
    fi
    tpus tpu-vm describe "$name" "${where[@]}" "--format=value(state,health)"
    on_worker 0 "if $running; then echo training; else echo not training; fi;\
 tail -n 5 vatt.log" ;;

  stop)
    on_worker 0 "if $running; then kill -TERM \"\$(cat vatt.pid)\"; while\
 $running; do sleep 1; done; else echo no training runs; fi; tail -n 5\
 vatt.log" ;;

  delete)
    if [[ -n $queued ]]; then
      tpus queued-resources delete "$name" "${where[@]}" --force
    else
      tpus tpu-vm delete "$name" "${where[@]}"
    fi ;;

  requirements)
    python3 -c '
import ast, re, sys
for node in ast.parse(open(sys.argv[1], encoding="utf-8").read()).body:
  if isinstance(node, ast.Assign) and node.targets[0].id == "REQUIRED":
    print(*(r for r in ast.literal_eval(node.value)
            if re.match("[A-Za-z0-9_-]+", r)[0] != "tensorflow"), sep="\n")
    break
else:
  sys.exit(f"error: {sys.argv[1]}: no REQUIRED, expected a list")
' "$root/setup.py" ;;
esac
