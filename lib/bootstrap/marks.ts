import { formatMarker, type MarkerLine } from "@ultracloud/cluster-state";

/** Tells the deployer of a marker; rejects when it is not kept. */
export type PostMarker = (marker: MarkerLine) => Promise<void>;

/** Markers that wait for a deployer that is out of reach; a loop of failures fills no memory. */
const waitingMax = 64;

/**
 * Shows markers on the console at once, and posts them in the order in which they were shown. That the deployer is out
 * of reach holds nothing up: what could not be posted waits for the next marker.
 */
export class Marks {
  readonly #print: (line: string) => void;
  #post: PostMarker | undefined;
  #waiting: MarkerLine[] = [];
  #posting: Promise<void> = Promise.resolve();
  node: string;

  constructor(options: { readonly node: string }, deps: { readonly print: (line: string) => void }) {
    this.node = options.node;
    this.#print = deps.print;
  }

  /** From now on, and what waits, is posted by this. */
  postBy(post: PostMarker): void {
    this.#post = post;
  }

  show(name: MarkerLine["name"], detail = ""): void {
    const marker = { name, node: this.node, detail };
    this.#print(formatMarker(marker));
    this.#waiting = [...this.#waiting, marker].slice(-waitingMax);
    this.#posting = this.#posting.then(() => this.#flush());
  }

  /** Settles when what could be posted is. */
  async settled(): Promise<void> {
    await this.#posting;
  }

  async #flush(): Promise<void> {
    while (this.#post !== undefined && this.#waiting[0] !== undefined) {
      try {
        // The deployer knows the machine by the node it has become meanwhile.
        await this.#post({ ...this.#waiting[0], node: this.node });
      } catch {
        return;
      }
      this.#waiting.shift();
    }
  }
}
