import type { Placement } from "@ultracloud/base";
import type { Stack, StackOptions } from "./stack.ts";

/** Configuration of a component in a stack on one machine: the common part, its callees, and what it alone has. */
export function configOf(
  name: string,
  placement: Placement,
  stack: Stack,
  options: StackOptions,
): Record<string, unknown> {
  const peers: Record<string, string[]> = {};
  for (const callee of stack.member(name).manifest.calls) {
    const [component, listener] = callee.split(".") as [string, string];
    if (doesWithout(name, component, options)) continue;
    if (listener === "rpc") peers[component] = [stack.endpoint(component)];
  }
  return {
    clusterId: options.clusterId,
    rpc: { listen: placement.listen.rpc },
    stateDir: placement.stateDir,
    runDir: placement.runDir,
    identityKeyFile: `${placement.configDir}/identity.key`,
    trustFile: placement.trustFile,
    ...(Object.keys(peers).length > 0 ? { peers } : {}),
    ...own[name]?.(stack, placement),
  };
}

/** Callees that a component does without where they are not part of the stack. */
const optional: Readonly<Record<string, readonly string[]>> = {
  "mtls-agent": ["deployer"],
  plasmavmc: ["fetcher"],
};

/** Whether the component runs in this stack without that callee: the stack lacks it, and nothing breaks. */
export function doesWithout(name: string, callee: string, { components }: Pick<StackOptions, "components">): boolean {
  return optional[name]?.includes(callee) === true && !components.includes(callee);
}

/** What only one component has. */
const own: Readonly<Record<string, (stack: Stack, placement: Placement) => Record<string, unknown>>> = {
  deployer: (_stack, { listen }) => ({ bootstrap: { listen: listen.bootstrap } }),
  iam: (stack) => ({ mode: "dev", issuer: stack.endpoint("iam"), adminTokenFile: stack.adminTokenFile }),
};
