/** Live progress on standard error: one line a step, with its time. */
export interface Progress {
  /** Begins a step; the one before it is done. */
  step(text: string): void;
  /** Says more about the present step. */
  note(text: string): void;
  /** A line that stays. */
  say(text: string): void;
  finish(): void;
  readonly steps: readonly { readonly step: string; readonly ms: number }[];
}

export function createProgress(err: (text: string) => void, interactive: boolean): Progress {
  const begin = performance.now();
  const steps: { step: string; ms: number }[] = [];
  let current: { text: string; start: number } | undefined;
  const at = () => `[${((performance.now() - begin) / 1000).toFixed(1).padStart(5)} s]`;
  const clear = () => interactive ? "\r\x1b[K" : "";
  const close = () => {
    if (!current) return;
    const ms = Math.round(performance.now() - current.start);
    steps.push({ step: current.text, ms });
    err(`${clear()}${at()} ${current.text}: ${(ms / 1000).toFixed(1)} s\n`);
    current = undefined;
  };
  return {
    steps,
    step(text) {
      close();
      current = { text, start: performance.now() };
      if (interactive) err(`${at()} ${text} ...`);
    },
    note(text) {
      if (interactive && current) err(`${clear()}${at()} ${current.text}: ${text}`);
    },
    say(text) {
      err(`${clear()}${text}\n`);
      if (interactive && current) err(`${at()} ${current.text} ...`);
    },
    finish: close,
  };
}
