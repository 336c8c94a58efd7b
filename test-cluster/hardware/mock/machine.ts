/** What a BMC is wired to: power, the reset line, one virtual drive, and where the next start comes from. */
export interface Machine {
  readonly powered: boolean;
  /** Power on; `fromMedia` boots this once from the virtual drive, otherwise from the disk. */
  on(fromMedia: boolean): Promise<void>;
  off(): Promise<void>;
  /** The reset button. */
  reset(fromMedia: boolean): Promise<void>;
  /** Fills the virtual drive with an image file, or empties it; a guest that runs sees the change. */
  changeMedium(file: string | undefined): Promise<void>;
}

/** A machine that is nothing but its switches: what a BMC did to it can be read. */
export class SwitchesOnly implements Machine {
  powered = false;
  medium: string | undefined;
  /** `on media`, `reset disk`, `off`, `insert FILE`, `empty` in order. */
  readonly done: string[] = [];

  on(fromMedia: boolean): Promise<void> {
    this.powered = true;
    return this.#did(`on ${fromMedia ? "media" : "disk"}`);
  }

  off(): Promise<void> {
    this.powered = false;
    return this.#did("off");
  }

  reset(fromMedia: boolean): Promise<void> {
    return this.#did(`reset ${fromMedia ? "media" : "disk"}`);
  }

  changeMedium(file: string | undefined): Promise<void> {
    this.medium = file;
    return this.#did(file === undefined ? "empty" : "insert");
  }

  #did(what: string): Promise<void> {
    this.done.push(what);
    return Promise.resolve();
  }
}
