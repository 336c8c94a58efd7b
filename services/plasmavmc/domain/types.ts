/** What plasmavmc keeps. Identity, name and labels stand in the record around each. */

export type ImageFormat = "raw" | "qcow2" | "kernel_bundle";

export interface Image {
  readonly format: ImageFormat;
  readonly bytes: number;
  /** Lower-case hex. */
  readonly sha256: string;
  /** As the guest sees the disk; 0 for a kernel bundle. */
  readonly virtualBytes: number;
}

export interface Flavor {
  readonly name: string;
  readonly vcpus: number;
  readonly memoryBytes: number;
  /** 0: no root disk. */
  readonly diskBytes: number;
  readonly builtin: boolean;
  readonly description: string;
}

export interface Resources {
  readonly vcpus: number;
  readonly memoryBytes: number;
  readonly diskBytes: number;
}

/** What a holder takes of a worker or of a quota. */
export interface Reservation extends Resources {
  /** Absent: 1, a VM. */
  readonly vmSlots?: number;
}

export type VmState =
  | "pending"
  | "starting"
  | "running"
  | "paused"
  | "stopping"
  | "stopped"
  | "migrating"
  | "failed"
  | "unknown"
  | "deleting"
  | "deleted";

export type DesiredState = "running" | "stopped" | "deleted" | "paused";
export type RestartPolicy = "never" | "on_failure" | "always";
export type NodeLossPolicy = "stay" | "evacuate";
export type MigrationStorage = "shared" | "mirror";
export type MachineType = "q35" | "microvm";

export interface Forward {
  readonly protocol: "tcp" | "udp";
  readonly hostIp: string;
  readonly hostPort: number;
  readonly guestPort: number;
}

/** What prismnet gave a port for its host. */
export type Binding =
  | {
    readonly engine: "user";
    readonly cidr: string;
    readonly gatewayIp: string;
    readonly dnsIp: string;
    readonly forwards: readonly Forward[];
    readonly restrict: boolean;
  }
  | { readonly engine: "tap"; readonly device: string; readonly mtu: number };

export interface Nic {
  readonly portId: string;
  readonly macAddress: string;
  readonly ipAddress: string;
  readonly subnetId: string;
  readonly binding: Binding;
}

/** A NIC that is wanted; its port is named by the VM and the number. */
export interface NicWish {
  /** Never used twice in a VM's life. */
  readonly number: number;
  readonly subnetId: string;
  readonly securityGroupIds: readonly string[];
}

export interface Attachment {
  readonly volumeId: string;
  readonly name: string;
  readonly readOnly: boolean;
  /** The epoch it was opened with for the guest that runs. */
  readonly epoch: number;
  /** How the guest reaches it; absent: not yet opened for it. Opening again could cut the guest off. */
  readonly source?: VolumeSource;
}

/** How a worker reaches a volume. */
export type VolumeSource = { readonly kind: "local" } | { readonly kind: "nbd"; readonly uri: string };

export interface RestartState {
  readonly policy: RestartPolicy;
  readonly cooldownMs: number;
  readonly count: number;
  readonly lastMs?: number;
}

export interface Migration {
  readonly operation: string;
  readonly source: string;
  readonly target: string;
  readonly storage: MigrationStorage;
  readonly active: boolean;
  readonly downtimeMs?: number;
  readonly totalMs?: number;
}

export interface Vm extends Resources {
  readonly flavor: string;
  readonly imageId: string;
  readonly imageSha256: string;
  readonly imageFormat: ImageFormat;
  readonly imageBytes: number;
  /** In the order the guest sees them. */
  readonly nicWishes: readonly NicWish[];
  readonly volumes: readonly Attachment[];
  readonly groupIds: readonly string[];
  readonly nodeSelector: Readonly<Record<string, string>>;
  readonly desired: DesiredState;
  readonly state: VmState;
  /** Why the state is not what was asked for. */
  readonly reason: string;
  /** Empty: not placed. */
  readonly node: string;
  readonly accelerator: string;
  readonly nics: readonly Nic[];
  /** Grows with every change a worker must see. */
  readonly generation: number;
  readonly startedMs?: number;
  /** The operation that has the VM; empty: none. One at a time. */
  readonly operation: string;
  readonly restart: RestartState;
  readonly nodeLoss: NodeLossPolicy;
  readonly deleteProtection: boolean;
  /** What the guest writes under. Disks refuse a writer with a lower one than any before. */
  readonly writerEpoch: number;
  /** The highest that was ever given out for it, to a migration's target too. */
  readonly epochMax: number;
  /** A root disk of a lower one is discarded and made anew from the image. */
  readonly rootEpoch: number;
  readonly migration?: Migration;
  /** Absent: q35. */
  readonly machineType?: MachineType;
}

/** What only the guest needs: kept beside the VM so that lists stay small. */
export interface GuestData {
  readonly userData: string;
  readonly sshAuthorizedKeys: readonly string[];
}

export interface Capacity extends Resources {
  readonly vmSlots: number;
}

export interface Node {
  readonly agentUrl: string;
  readonly accelerator: "kvm" | "tcg";
  readonly capacity: Capacity;
  readonly labels: Readonly<Record<string, string>>;
  readonly cordoned: boolean;
  /** The operation that empties it; empty: none. */
  readonly draining: string;
  /** When its lease was first seen to be gone; absent while it is alive. */
  readonly lostMs?: number;
  readonly agentVersion: string;
  readonly registeredMs: number;
}

/** One VM as its worker sees it. */
export interface Observation {
  readonly vmId: string;
  readonly state: VmState;
  readonly reason: string;
  readonly startedMs?: number;
}

export type VolumeState =
  | "creating"
  | "available"
  | "attaching"
  | "in_use"
  | "detaching"
  | "growing"
  | "deleting"
  | "failed";

export interface Volume {
  readonly sizeBytes: number;
  readonly state: VolumeState;
  readonly reason: string;
  /** The worker whose disk holds it; empty: not yet chosen. */
  readonly node: string;
  /** Where its maker wants it; empty: anywhere. */
  readonly wantedNode: string;
  readonly shared: boolean;
  /** Empty: attached to nothing. */
  readonly vmId: string;
  readonly vmName: string;
  readonly readOnly: boolean;
  readonly deleteProtection: boolean;
  readonly operation: string;
  readonly writerEpoch: number;
}

export type SnapshotState = "creating" | "ready" | "restoring" | "deleting" | "failed";

export interface Snapshot {
  readonly state: SnapshotState;
  readonly reason: string;
  readonly vmId: string;
  /** Volumes that are part of it, beside the root disk. */
  readonly volumeIds: readonly string[];
  /** The root disk is no part of it; absent: it is, where there is one. */
  readonly volumesOnly?: boolean;
  readonly sizeBytes: number;
  readonly node: string;
  readonly scheduleId: string;
  readonly operation: string;
}

export interface SnapshotSchedule {
  readonly vmId: string;
  readonly intervalMs: number;
  readonly keep: number;
  readonly nextMs: number;
  readonly lastFailure: string;
}

export interface SshKey {
  readonly publicKey: string;
  readonly fingerprint: string;
}

export interface PlacementGroup {
  readonly strictness: "hard" | "soft";
  /** Empty: apart by worker. */
  readonly domainLabel: string;
}

export interface ImageAlias {
  readonly versions: readonly { readonly number: number; readonly imageId: string; readonly sha256: string }[];
}

/** A flavor as it is stored; its name is the record's. */
export type StoredFlavor = Resources & { readonly description: string };
