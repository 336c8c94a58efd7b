import { fault, invalidField } from "@ultracloud/base";
import { nbdTarget } from "./volume_spec.ts";

export type MigrationStorage = "shared" | "mirror";
export type MigrationPhase =
  | "prepared"
  | "mirroring"
  | "memory"
  | "switchover"
  | "completed"
  | "failed"
  | "cancelled";

/** Where a target listens. */
export interface Endpoints {
  readonly stateUri: string;
  /** Of the TLS sessions, as 64 hex digits; undefined on unix sockets, which do not leave the host. */
  readonly psk?: string | undefined;
  readonly mirrors: readonly { readonly device: string; readonly uri: string }[];
}

export interface MigrationOptions {
  readonly autoConverge: boolean;
  /** 0: unlimited. */
  readonly bandwidthBytesPerSecond: number;
  readonly maxDowntimeMs: number;
  /** Holds the guest in the switchover until told to go on. */
  readonly hold: boolean;
}

/** A migration as it stands in the VM's record: whoever adopts the VM carries on with it. */
export interface MigrationRecord {
  readonly id: string;
  readonly role: "source" | "target";
  readonly storage: MigrationStorage;
  readonly phase: MigrationPhase;
  readonly reason: string;
  /** Wall clock: the agent that looks at it may be another than the one that began. */
  readonly startedAtMs: number;
  readonly deadlineAtMs: number;
  /** Where the target listens, also as the source was told. */
  readonly endpoints: Endpoints;
  /** Of the source only. */
  readonly options?: MigrationOptions | undefined;
  readonly targetWriterEpoch?: number | undefined;
  /** The source was told to let a held switchover happen. */
  readonly released?: boolean | undefined;
  readonly cancelled?: boolean | undefined;
  /** The guest was let go: it is the target's unless QEMU says that it could not. */
  readonly continued?: boolean | undefined;
  /** Local volumes that PrepareIncoming made, and an abort removes. */
  readonly madeVolumes?: readonly string[] | undefined;
  readonly downtimeMs: number;
  readonly totalMs: number;
}

/** How far a migration that goes on is. */
export interface MigrationProgress {
  readonly memoryTransferredBytes: number;
  readonly memoryRemainingBytes: number;
  readonly memoryTotalBytes: number;
  readonly diskTransferredBytes: number;
  readonly diskTotalBytes: number;
  readonly throttlePercent: number;
}

export const noProgress: MigrationProgress = {
  memoryTransferredBytes: 0,
  memoryRemainingBytes: 0,
  memoryTotalBytes: 0,
  diskTransferredBytes: 0,
  diskTotalBytes: 0,
  throttlePercent: 0,
};

export interface MigrationView {
  readonly vmId: string;
  readonly record: MigrationRecord;
  readonly progress: MigrationProgress;
}

export function isOver(phase: MigrationPhase): boolean {
  return phase === "completed" || phase === "failed" || phase === "cancelled";
}

/** 0 to 100, of everything that is to be sent. */
export function percentOf(phase: MigrationPhase, progress: MigrationProgress): number {
  if (phase === "completed") return 100;
  const total = progress.diskTotalBytes + progress.memoryTotalBytes;
  if (total <= 0) return 0;
  const sent = progress.diskTransferredBytes + progress.memoryTotalBytes - progress.memoryRemainingBytes;
  return Math.max(0, Math.min(99, Math.floor(100 * sent / total)));
}

/** Only sockets: QEMU would also take commands to run (`exec:`) here. */
const statePattern = /^(unix:\/[A-Za-z0-9._/-]{1,106}|tcp:[A-Za-z0-9.-]{1,253}:\d{1,5})$/;

/** Refuses endpoints that QEMU must not be given, and those without a place for each disk that is copied. */
export function checkEndpoints(endpoints: Endpoints, storage: MigrationStorage, mirrored: readonly string[]): void {
  if (!statePattern.test(endpoints.stateUri) || endpoints.stateUri.includes("..")) {
    throw invalidField(
      "endpoints.state_uri",
      `Cannot send a guest to ${
        JSON.stringify(endpoints.stateUri.slice(0, 80))
      }: wanted unix:<path> or tcp:<address>:<port>`,
    );
  }
  const targets = endpoints.mirrors.map(({ uri }, i) => nbdTarget(uri, `endpoints.mirrors[${i}].nbd_uri`));
  const leaves = endpoints.stateUri.startsWith("tcp:") || targets.some(({ server }) => server.type === "inet");
  if (leaves && !/^[0-9a-f]{64}$/.test(endpoints.psk ?? "")) {
    throw invalidField("endpoints.psk", "Cannot send a guest over TCP without a key: wanted 64 hex digits");
  }
  if (storage === "shared") {
    if (mirrored.length === 0) return;
    throw fault(
      "failed_precondition",
      "storage_not_shared",
      `Cannot move by shared storage as ${mirrored.join(", ")} is a disk of this worker: wanted MIRROR`,
    );
  }
  const missing = mirrored.find((device) => !endpoints.mirrors.some((mirror) => mirror.device === device));
  if (missing !== undefined) {
    throw invalidField("endpoints.mirrors", `Cannot copy ${missing} as the target has no place for it`);
  }
}
