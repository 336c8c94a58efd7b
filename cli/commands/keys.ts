import { buildRouteMap } from "@stricli/core";
import { makeClusterKeys, parseClusterFile } from "@ultracloud/launch";
import { command, text } from "../frame/command.ts";

export const keys = buildRouteMap({
  docs: {
    brief: "Private keys of a cluster's components, made before it first runs",
    fullDescription:
      "Give each node the directories of the components that it runs, and trust.json; keep operator/ to " +
      "yourself. Certificates are another matter: docs/control-plane-ops.md.",
  },
  routes: {
    make: command<{ cluster: string; out: string }, []>({
      brief: "Make what is missing: identities, the trust file, iam's secrets; what is there stays",
      flags: {
        cluster: { kind: "parsed", parse: text, brief: "Cluster state, JSON" },
        out: { kind: "parsed", parse: text, brief: "Directory that gets COMPONENT/identity.key and trust.json" },
      },
      async run({ io, flags: common }, { cluster, out }) {
        const state = parseClusterFile(await Deno.readTextFile(cluster), cluster);
        if (common.explain || common.dryRun) {
          io.out(`Would make the missing keys of ${state.clusterId} in ${out}\n`);
          return;
        }
        const { made, kept } = await makeClusterKeys(state, out);
        for (const path of made) io.out(`made ${path}\n`);
        io.err(`${made.length} made, ${kept.length} kept in ${out}; trust.json names who may do what\n`);
      },
    }),
  },
});
