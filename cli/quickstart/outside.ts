import { fault } from "@ultracloud/base";
import type { Stack } from "@ultracloud/launch";
import type { Vm } from "@ultracloud/proto/plasmavmc/v1";
import {
  AddressPoolService,
  Direction,
  FloatingIpService,
  NatGatewayService,
  Protocol,
  SecurityGroupService,
} from "@ultracloud/proto/prismnet/v1";
import type { Session } from "../frame/session.ts";
import { fetchPage, httpPort, type HttpProof, names, poll, projectName, waitForMarker } from "./cloud.ts";
import { type Fabric, mirrorPort, outside, uplinkName } from "./fabric.ts";

/** A port on which the guest serves and which its security group does not let in. */
export const forbiddenPort = 81;
const outsideMarker = "ULTRACLOUD_OUTSIDE_SAW";
/** Long enough for a connection that nobody drops. */
const closedMs = 700;
const liveMsMax = 20_000;

/** Serves on a second port as well, and says under which address the network outside sees the guest. */
export const guestScript = `#!/bin/sh
httpd -p ${forbiddenPort} -h /www
for try in $(seq 60); do
  seen=$(echo | nc -w 2 ${outside.gatewayIp} ${mirrorPort}) && [ -n "$seen" ] && break
  sleep 0.2
done
echo "${outsideMarker} $seen"
`;

/** What was seen of a guest on OVN. */
export interface OutsideProof {
  readonly natIp: string;
  readonly floatingIp: string;
  readonly page: HttpProof;
  readonly forbidden: string;
}

/** Makes the addresses outside available and the network's way out; answers its address. */
export async function createWayOut(session: Session): Promise<string> {
  const project = projectName;
  await session.client(AddressPoolService, "prismnet").createAddressPool({
    name: "public",
    cidr: outside.cidr,
    gatewayIp: outside.gatewayIp,
    uplink: uplinkName,
  });
  const { ipAddress } = await session.client(NatGatewayService, "prismnet").createNatGateway({
    project,
    name: "way",
    vpc: names.network,
    addressPool: "public",
  });
  await session.client(FloatingIpService, "prismnet").createFloatingIp({
    project,
    name: "www",
    addressPool: "public",
    ipAddress: outside.floatingIp,
  });
  return ipAddress;
}

/**
 * Proves what OVN does for the guest: it went out under the gateway's address, is reached at its floating IP, and a
 * port that no rule names is closed, opens with a rule and closes again with its removal.
 */
export async function proveOutside(
  session: Session,
  fabric: Fabric,
  stack: Stack,
  vm: Vm,
  options: { readonly natIp: string; readonly pageUrl: string; readonly timeoutMs: number },
): Promise<OutsideProof> {
  const { timeoutMs, natIp } = options;
  const { signal } = session.io;
  const line = await waitForMarker(session, timeoutMs, outsideMarker);
  const seen = line.slice(line.indexOf(outsideMarker) + outsideMarker.length).trim();
  if (seen !== natIp) {
    throw fault(
      "internal",
      "snat_missing",
      `Cannot trust the NAT gateway: the network outside saw the guest as ${JSON.stringify(seen)}, wanted ${natIp}`,
    );
  }
  await session.client(FloatingIpService, "prismnet").attachFloatingIp({
    project: projectName,
    floatingIp: "www",
    port: vm.nics[0]?.portId ?? "",
  });
  const page = await fetchPage(options.pageUrl, timeoutMs, signal);
  const forbidden = await proveForbidden(session, fabric, stack);
  return { natIp, floatingIp: outside.floatingIp, page, forbidden };
}

async function proveForbidden(session: Session, fabric: Fabric, stack: Stack): Promise<string> {
  const { signal } = session.io;
  const groups = session.client(SecurityGroupService, "prismnet");
  const group = { project: projectName, securityGroup: names.group };
  // Tried from where the allowed port has just answered.
  if (await fabric.reaches(stack, forbiddenPort, closedMs)) {
    throw fault(
      "internal",
      "port_open",
      `Cannot trust the security group ${names.group}: guest port ${forbiddenPort} is reachable and should not be`,
    );
  }
  const port = { protocol: Protocol.TCP, portMin: forbiddenPort, portMax: forbiddenPort };
  const { rules: before } = await groups.getSecurityGroup(group);
  const since = async (wanted: boolean, begin: number) => {
    const what = `guest port ${forbiddenPort} to be ${wanted ? "open" : "closed"}`;
    await poll(
      liveMsMax,
      signal,
      what,
      async () => await fabric.reaches(stack, forbiddenPort, wanted ? 150 : closedMs) === wanted || undefined,
    );
    return Math.round(performance.now() - begin);
  };
  let begin = performance.now();
  const { rules } = await groups.addRule({ ...group, rule: { direction: Direction.INGRESS, ...port } });
  const openMs = await since(true, begin);
  const added = rules.find((rule) => !before.some(({ id }) => id === rule.id));
  begin = performance.now();
  await groups.removeRule({ ...group, ruleId: added?.id ?? "" });
  await since(false, begin);
  return `guest port ${forbiddenPort}, where the guest serves too, is closed; it was open ${openMs} ms after a rule ` +
    "let it in, and is closed again without";
}

/** The guest's allowed port, and the one that is not: what may be tried from outside. */
export const triedPorts: readonly number[] = [httpPort, forbiddenPort];
