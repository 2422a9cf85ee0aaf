"""Pre-train an ERNIE-M: `python run_pretrain.py --config configs/pretrain/base.yaml --data.corpus DIR`.

On several devices: `fleetrun run_pretrain.py --config ...`. The same command again goes on where the run
    stopped.
"""

import signal
import sys
from pathlib import Path

from pretrain.config import PretrainConfig, check
from utils.errors import run


def main() -> None:
    from utils.config import load_config, save_config, to_yaml
    from utils.runtime import prepare

    config = load_config(PretrainConfig, sys.argv[1:], __doc__)
    check(config)
    prepare()

    # Paddle reads its CPU settings when it is imported, and the reader process, which imports this file,
    # needs none of it.
    from pretrain.evaluate import Evaluator, summary
    from pretrain.masking import Vocabulary
    from pretrain.metrics import Window, append, cut_back, in_words, scalars
    from pretrain.reader import ReaderPlan, total_steps
    from pretrain.trainer import Trainer, newest_checkpoint
    from reader.corpus import Corpus
    from reader.prefetch import prefetch
    from reader.tokenization import Tokenizer
    from utils import distributed, logging

    output, run_config = Path(config.run.output), config.run
    distributed.init()
    logging.setup(str(output / "log"), distributed.rank())
    logger = logging.logger

    tokenizer = Tokenizer.from_folder(config.data.corpus)
    corpus = Corpus(config.data.corpus, tokenizer.digest, verify=config.data.verify)
    vocabulary = Vocabulary.of(tokenizer)
    steps = total_steps(config, corpus, vocabulary)
    trainer = Trainer(config, corpus, tokenizer, steps)
    if checkpoint := newest_checkpoint(config):
        reader_state, window = trainer.resume(checkpoint)
    else:
        trainer.initialise()
        reader_state, window = None, None
    engine, window = trainer.engine, Window(window)
    if distributed.is_main():
        logger.info("configuration:\n%s", to_yaml(config))
        save_config(config, output / "config.yaml")
        cut_back(output / "metrics.jsonl", engine.steps)

    evaluator = Evaluator(config, corpus, tokenizer, trainer.generator)
    curves = logging.Scalars(output / "visualdl")
    last = min(steps, run_config.stop_after_steps or steps)
    bar = logging.Progress(steps, "pre-training", initial=engine.steps, unit="step")
    facts = {
        "name": "ERNIE-M, pre-trained", "data": config.data.corpus, "seed": run_config.seed,
        "initialised_from": config.init.encoder, "command": "python " + " ".join(sys.argv),
    }  # fmt: skip
    asked_to_stop = []
    signal.signal(signal.SIGTERM, lambda *_: asked_to_stop.append(True))

    def report(record: dict, lines: list[str]) -> None:
        if distributed.is_main():
            for line in lines:
                logger.info("%s", line)
            append(output / "metrics.jsonl", record)
            curves.add(record["step"], scalars(record))

    plan = ReaderPlan(
        config,
        tokenizer.digest,
        vocabulary,
        steps,
        distributed.rank(),
        distributed.world_size(),
        reader_state,
    )
    with prefetch(plan) as batches:
        while engine.steps < last:
            work = next(batches)
            logs = (engine.steps + 1) % run_config.log_steps == 0
            step = trainer.step(work, accuracy=logs)
            window.add(step)
            bar.update()
            finished = engine.steps == steps
            if logs or finished:
                record = window.close(engine.steps, step.lr)
                report(record, [in_words(record, steps, bar.eta())])
            if finished or (run_config.eval_steps and engine.steps % run_config.eval_steps == 0):
                result = evaluator.run(trainer.model)
                report({"step": engine.steps, "held_out": result}, summary(result))
            # Any process may have got the signal; all must agree.
            stop = distributed.all_sum([float(bool(asked_to_stop))])[0] > 0
            if stop or engine.steps >= last or engine.steps % run_config.save_steps == 0:
                folder = output / "checkpoints" / f"step_{engine.steps}"
                trainer.save(folder, work.state, window.state(), facts)
                logger.info("saved %s", folder)
            if stop:
                break
    bar.close()
    curves.close()
    if engine.steps < steps:
        logger.info("stopped at step %d of %d; the same command goes on from here", engine.steps, steps)
        return
    trainer.export(output / "full", facts, encoder_only=False)
    trainer.export(output / "encoder", facts, encoder_only=True)
    logger.info(
        "encoder for fine-tuning: %s; everything, to continue from: %s", output / "encoder", output / "full"
    )


if __name__ == "__main__":
    run(main)
