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
}

export interface Resources {
  readonly vcpus: number;
  readonly memoryBytes: number;
  readonly diskBytes: number;
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
  | "deleting";

export type DesiredState = "running" | "stopped" | "deleted";

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
  readonly binding: Binding;
}

export interface Vm extends Resources {
  readonly flavor: string;
  readonly imageId: string;
  readonly imageSha256: string;
  readonly imageFormat: ImageFormat;
  readonly imageBytes: number;
  /** By id, in the order of the NICs. */
  readonly subnetIds: readonly string[];
  readonly securityGroupIds: readonly string[];
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
