import { fault, utf8 } from "@ultracloud/base";
import {
  Direction,
  type Engine,
  EngineService,
  Protocol,
  SecurityGroupService,
  SubnetService,
  VpcService,
} from "@ultracloud/proto/prismnet/v1";
import { OrgService, ProjectService } from "@ultracloud/proto/iam/v1";
import { ImageFormat, ImageService, NodeService, NodeState, type Vm, VmService } from "@ultracloud/proto/plasmavmc/v1";
import { importMessages } from "../commands/compute.ts";
import { waitFor } from "../frame/operations.ts";
import type { Session } from "../frame/session.ts";

/** Names of what the quickstart makes. */
export const names = {
  org: "demo",
  project: "quickstart",
  image: "tiny",
  network: "net",
  subnet: "lan",
  group: "web",
  vm: "hello",
} as const;
export const projectName = `${names.org}/${names.project}`;
/** The guest's HTTP port, which the security group lets in. */
export const httpPort = 80;
/** What the guest prints on its serial console once its network and HTTP server are up. */
const readyMarker = "ULTRACLOUD_GUEST_READY";

/** Makes organisation and project. */
export async function createProject(session: Session): Promise<void> {
  await session.client(OrgService, "iam").createOrg({ name: names.org, displayName: "Quickstart" });
  await session.client(ProjectService, "iam").createProject({ org: names.org, name: names.project });
}

/** Imports the guest image; answers its id. */
export async function importImage(
  session: Session,
  image: { path: string; sha256: string },
  onProgress: (sent: number, total: number) => void,
) {
  const header = { project: projectName, name: names.image, format: ImageFormat.KERNEL_BUNDLE, sha256: image.sha256 };
  return await session.client(ImageService, "plasmavmc").importImage(importMessages(image.path, header, onProgress));
}

/** Makes network, subnet and a security group that lets HTTP in; answers what the engine enforces. */
export async function createNetwork(session: Session): Promise<Engine> {
  const project = projectName;
  await session.client(VpcService, "prismnet").createVpc({ project, name: names.network });
  await session.client(SubnetService, "prismnet").createSubnet({
    project,
    name: names.subnet,
    vpc: names.network,
    cidr: "10.20.0.0/24",
  });
  await session.client(SecurityGroupService, "prismnet").createSecurityGroup({
    project,
    name: names.group,
    description: "HTTP in, everything out",
    rules: [
      { direction: Direction.INGRESS, protocol: Protocol.TCP, portMin: httpPort, portMax: httpPort },
      { direction: Direction.EGRESS, protocol: Protocol.UNSPECIFIED },
    ],
  });
  return await session.client(EngineService, "prismnet").getEngine({});
}

/** Waits until a worker takes VMs. */
export async function waitForNode(session: Session, timeoutMs: number): Promise<{ name: string; accelerator: string }> {
  const client = session.client(NodeService, "plasmavmc");
  return await poll(timeoutMs, session.io.signal, "a worker that is ready", async () => {
    const { nodes } = await client.listNodes({});
    const node = nodes.find((n) => n.state === NodeState.READY);
    return node && { name: node.name, accelerator: node.accelerator };
  });
}

/** Creates the VM and waits until it runs; user data that starts with #! is run by the guest. */
export async function createVm(session: Session, timeoutMs: number, userData = ""): Promise<Vm> {
  const client = session.client(VmService, "plasmavmc");
  const operation = await client.createVm({
    project: projectName,
    name: names.vm,
    flavor: "tiny",
    image: names.image,
    subnets: [names.subnet],
    securityGroups: [names.group],
    userData,
  });
  await waitFor(session, timeoutMs, "plasmavmc", projectName, operation);
  return await client.getVm({ project: projectName, vm: names.vm });
}

/** Reads the serial console until a marker of the guest stands there; answers that line. */
export async function waitForMarker(session: Session, timeoutMs: number, marker = readyMarker): Promise<string> {
  const client = session.client(VmService, "plasmavmc");
  let offset = 0n;
  let seen = "";
  const decoder = new TextDecoder();
  return await poll(timeoutMs, session.io.signal, `${marker} on the serial console`, async () => {
    const part = await client.getConsoleLog({ project: projectName, vm: names.vm, offset });
    offset = part.nextOffset;
    seen = (seen + decoder.decode(part.data, { stream: true })).slice(-65_536);
    return seen.split(/\r?\n/).slice(0, -1).find((line) => line.includes(marker))?.trim();
  });
}

export interface HttpProof {
  readonly url: string;
  readonly status: number;
  readonly body: string;
}

/** Fetches the guest's page through its allowed port. */
export async function fetchGuest(vm: Vm, timeoutMs: number, signal: AbortSignal): Promise<HttpProof> {
  const endpoint = vm.nics.flatMap((nic) => nic.endpoints).find((e) => e.guestPort === httpPort);
  if (!endpoint) {
    throw fault(
      "internal",
      "no_endpoint",
      `Cannot reach the guest: VM ${vm.meta?.name} has no endpoint for port ${httpPort}`,
    );
  }
  return await fetchPage(`http://${endpoint.address}/`, timeoutMs, signal);
}

/** Fetches a page, again until it is there. */
export async function fetchPage(url: string, timeoutMs: number, signal: AbortSignal): Promise<HttpProof> {
  return await poll(timeoutMs, signal, `an HTTP answer from ${url}`, async () => {
    const response = await fetch(url, { signal: AbortSignal.any([signal, AbortSignal.timeout(3_000)]) });
    const body = utf8.decode(new Uint8Array(await response.arrayBuffer()));
    return response.ok && body !== "" ? { url, status: response.status, body } : undefined;
  });
}

/**
 * What became of a port that the security group forbids, on user networking: it has no address to try it at, so this
 * says what the engine does instead of a check.
 */
export function forbiddenPortVerdict(vm: Vm): string {
  const opened = vm.nics.flatMap((nic) => nic.endpoints).filter((e) => e.guestPort !== httpPort);
  if (opened.length > 0) {
    const ports = opened.map((e) => e.guestPort).join(", ");
    throw fault(
      "internal",
      "port_open",
      `Cannot trust the security group ${names.group}: guest port ${ports} is reachable and should not be`,
    );
  }
  return "no other port of the guest has a way in, as user networking forwards only what the group allows; " +
    "it enforces nothing on traffic inside the guest's own network";
}

/** Removes the VM through the API. */
export async function deleteVm(session: Session, timeoutMs: number): Promise<void> {
  const operation = await session.client(VmService, "plasmavmc").deleteVm({ project: projectName, vm: names.vm });
  await waitFor(session, timeoutMs, "plasmavmc", projectName, operation);
}

/** Repeats until there is a value; what was last seen to fail becomes the cause. */
export async function poll<T>(
  timeoutMs: number,
  signal: AbortSignal,
  what: string,
  look: () => Promise<T | undefined>,
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  let cause: unknown;
  for (;;) {
    signal.throwIfAborted();
    try {
      const value = await look();
      if (value !== undefined) return value;
    } catch (error) {
      cause = error;
    }
    if (performance.now() > deadline) {
      const last = cause instanceof Error ? ` (last: ${cause.message})` : "";
      throw fault("deadline_exceeded", "wait_timeout", `Cannot wait longer than ${timeoutMs} ms for ${what}${last}`, {
        cause,
      });
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
