/** Boot entries with counters, as in the Automatic Boot Assessment of systemd-boot: `NAME+LEFT-DONE.conf`. */

/** The system whose init the kernel was started with; undefined when its command line names none. */
export function bootedSystem(cmdline: string): string | undefined {
  return /(?:^|\s)init=(\/nix\/store\/[^/\s]+)\/init(?:\s|$)/.exec(cmdline)?.[1];
}

/** The file's name without its counter: the same name when it has none. */
export function withoutCounter(file: string): string {
  return file.replace(/\+\d+(-\d+)?(?=\.conf$)/, "");
}

/** True when the entry starts the system. */
export function starts(entry: string, system: string): boolean {
  return entry.split("\n").some((line) => /^options\s/.test(line) && line.split(/\s+/).includes(`init=${system}/init`));
}
