#!/bin/sh
# Prolog of slurm.conf: a job does not begin on a node that the gate has just drained. Slurm drains a node for any other
# exit status than 0, so this one is 0 unless the gate drained it already; the job is requeued.
"$(dirname "$0")/quick.sh"
[ $? -ne 10 ]
