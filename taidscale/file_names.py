"""What the files of a run are called.

run_dir/
  config.yaml            every setting of the last start that passed all checks, defaults included
  models.json            what the models are made of, with which later starts compare
  lock                   who is writing here
  stop                   somebody's request that the run which holds the lock end
  status.json            how the last start ended, see `run.status`
  heartbeat.json         the last step, for whoever looks from outside
  student/               config.json, tokenizer, generation settings and lineage, for the export
  checkpoints/           step-00000100/, ...
  roll_backs.json        behind which samples the run goes on after its roll-backs
  metrics.jsonl          a line a step
  evaluations.jsonl      a line an evaluation
  events.jsonl           a line for what else is worth knowing: starts, skipped steps, roll-backs
  undone.jsonl           lines of steps that a roll-back has undone
  skipped_samples.jsonl  what a step had learnt from that was not finite
  stacks/                where each rank was when it hung
  tensorboard/           the figures for TensorBoard, if asked for
  profile/               what torch's profiler saw of some steps, if asked for
  wandb_id, wandb_id_of  which run of Weights & Biases it is, and whose id that is
"""

CONFIG_FILE = "config.yaml"
MODELS_FILE = "models.json"
LOCK_FILE = "lock"
STOP_FILE = "stop"
STATUS_FILE = "status.json"
HEARTBEAT_FILE = "heartbeat.json"
STUDENT_FOLDER = "student"
CHECKPOINTS_FOLDER = "checkpoints"
ROLL_BACKS_FILE = "roll_backs.json"
METRICS_FILE = "metrics.jsonl"
EVALUATIONS_FILE = "evaluations.jsonl"
EVENTS_FILE = "events.jsonl"
UNDONE_FILE = "undone.jsonl"
SKIPPED_FILE = "skipped_samples.jsonl"
STACKS_FOLDER = "stacks"
TENSORBOARD_FOLDER = "tensorboard"
PROFILE_FOLDER = "profile"
WANDB_ID_FILE = "wandb_id"
WANDB_PLACE_FILE = "wandb_id_of"
