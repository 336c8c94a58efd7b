import type { Clock } from "@ultracloud/base";
import type { Logger } from "@ultracloud/observe";
import type { Plugged } from "./devices.ts";
import type { Disks } from "./disks.ts";
import type { Host } from "./domain/argv.ts";
import type { RunState } from "./domain/state.ts";
import type { HostUser } from "./host_user.ts";
import type { ImageCache } from "./images.ts";
import type { Machine } from "./machine.ts";
import type { Engine } from "./qemu.ts";
import type { RecordStore } from "./records.ts";
import type { Slots } from "./slots.ts";
import type { Volumes } from "./volumes.ts";

export interface MachineDeps {
  readonly host: Host;
  readonly runDir: string;
  readonly consoleBytesMax: number;
  readonly clock: Clock;
  readonly log: Logger;
  readonly records: RecordStore;
  readonly images: ImageCache;
  readonly volumes: Volumes;
  readonly disks: Disks;
  readonly slots: Slots;
  readonly user: HostUser;
  /** False once VMs that another worker may start are to be ended. */
  readonly leaseHeld: () => boolean;
  /** Puts a snapshot's copies back where an agent before this one was cut off. */
  readonly finishRestore: (machine: Machine, snapshotId: string) => Promise<void>;
}

/** A QEMU that runs. */
export interface Live {
  readonly qemu: Engine;
  runState: RunState;
  plugged: Plugged;
  /** Resolves once the end of the process stands in the record. */
  readonly over: Promise<void>;
  /** Said by whoever ends it, so that its end is no failure. */
  expected: string | undefined;
  /** Said by whoever ends it because it must not go on. */
  failure: string | undefined;
  rebooting: (() => void) | undefined;
}
