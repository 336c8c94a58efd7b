import { checkLabels, checkName, fault, invalidField } from "@ultracloud/base";
import type { StoredRecord } from "@ultracloud/platform";
import { NodeService } from "@ultracloud/proto/plasmavmc/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import type { Control } from "./control.ts";
import { observe } from "./domain/observe.ts";
import { sumOf } from "./domain/placement.ts";
import type { Node } from "./domain/types.ts";
import { nodeKind, vmKind } from "./kinds.ts";
import { changeVm } from "./reconcile.ts";
import { fromNode, fromObservation, type NodeInit, toNode } from "./wire.ts";

/** VMs one heartbeat may speak of: more than any worker has slots. */
const observationsMax = 4096;

export function nodeService(control: Control, o: { readonly settleMs: number }): BoundService {
  const { platform, workers } = control;
  const { leases } = workers;
  /** Times of heartbeats this replica has heard; for people only, leases decide. */
  const heard = new Map<string, number>();
  const scope = (name: string) => {
    checkName(name, "name");
    return "";
  };

  async function view(record: StoredRecord<Node>, alive: ReadonlySet<string>): Promise<NodeInit> {
    return toNode(record, {
      alive: alive.has(record.name),
      allocated: sumOf(Object.values(await workers.held(record.name))),
      lastHeartbeatMs: heard.get(record.name) ?? record.value.registeredMs,
    });
  }

  return bind(NodeService, {
    async registerNode(request) {
      const fresh = fromNode(request.node);
      const name = checkName(request.node!.name, "node.name");
      checkLabels(fresh.labels, "node.labels");
      await platform.transact(async (tx) => {
        const present = await tx.find(nodeKind, "", name);
        const { cordoned = false, draining = "" } = present?.value ?? {};
        const value: Node = { ...fresh, cordoned, draining, registeredMs: tx.nowMs };
        if (present) tx.update(nodeKind, present, { value });
        else await tx.create(nodeKind, { project: "", name, value });
      });
      await leases.grant(name);
      heard.set(name, platform.clock.nowMs());
      platform.log.info("worker registered", { node: name, accelerator: fresh.accelerator, agentUrl: fresh.agentUrl });
      return { leaseTtlMs: BigInt(leases.ttlMs) };
    },
    async heartbeat(request) {
      checkName(request.node, "node");
      if (request.vms.length > observationsMax) {
        throw invalidField("vms", `Cannot take ${request.vms.length} observations: wanted at most ${observationsMax}`);
      }
      const leaseTtlMs = BigInt(leases.ttlMs);
      const known = await platform.find(nodeKind, "", request.node);
      if (!known || !await leases.renew(known.name)) return { leaseTtlMs, reregister: true };
      heard.set(known.name, platform.clock.nowMs());
      for (const observed of request.vms.map(fromObservation)) {
        const vm = await platform.findById(vmKind, observed.vmId);
        if (vm) await changeVm(platform, vm, (value) => observe(value, known.name, observed), o.settleMs);
      }
      return { leaseTtlMs, reregister: false };
    },
    async getNode(request) {
      return await view(await platform.get(nodeKind, "", request.name), await leases.alive());
    },
    async listNodes() {
      const [records, alive] = await Promise.all([platform.list(nodeKind), leases.alive()]);
      return { nodes: await Promise.all(records.map((record) => view(record, alive))) };
    },
    async setNodeCordoned(request) {
      const record = await platform.transact(async (tx) => {
        const node = await tx.get(nodeKind, "", request.name);
        if (node.value.cordoned === request.cordoned) return node;
        if (node.value.draining !== "") {
          throw fault(
            "failed_precondition",
            "node_draining",
            `Cannot uncordon worker ${node.name} as operation ${node.value.draining} drains it: wanted that cancelled`,
          );
        }
        return tx.update(nodeKind, node, { value: { ...node.value, cordoned: request.cordoned } });
      });
      return await view(record, await leases.alive());
    },
  }, {
    registerNode: { resource: "node", action: "register", scope: () => "" },
    heartbeat: { resource: "node", action: "heartbeat", scope: () => "" },
    getNode: { resource: "node", action: "get", scope: (r) => scope(r.name) },
    listNodes: { resource: "node", action: "list", scope: () => "" },
    setNodeCordoned: { resource: "node", action: "cordon", scope: (r) => scope(r.name) },
  });
}
