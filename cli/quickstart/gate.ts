import type { Stack } from "@ultracloud/launch";
import { componentEnv, type ComponentProcess, spawnDetached } from "@ultracloud/launch";

/** What one gate does; written as a file for gate_main.ts. */
export interface GateConfig {
  /** Where the other gate asks this one for connections. */
  readonly socket: string;
  readonly peerSocket: string;
  /** Addresses that may be asked for here. */
  readonly targets: readonly string[];
  /** Addresses listened on here, each leading to a target of the other gate. */
  readonly listen: readonly { readonly address: string; readonly target: string }[];
  /** Address where each caller is told under which address it came. */
  readonly mirror?: string;
}

/** Starts a gate under exactly the permissions that its configuration needs. */
export async function startGate(
  name: string,
  config: GateConfig,
  stack: Stack,
  options: { readonly root: string; readonly enter?: readonly string[] },
): Promise<ComponentProcess> {
  // Below the configuration directories: whoever ends leftovers finds a process by that path.
  const dir = `${stack.dataDir}/etc/${name}`;
  await Deno.mkdir(dir, { recursive: true, mode: 0o700 });
  const file = `${dir}/gate.json`;
  await Deno.writeTextFile(file, JSON.stringify(config), { mode: 0o600 });
  const sockets = [config.socket, config.peerSocket];
  const net = [
    ...config.targets,
    ...config.listen.map(({ address }) => address),
    ...(config.mirror === undefined ? [] : [config.mirror]),
    ...sockets.map((path) => `unix:${path}`),
  ];
  return spawnDetached({
    name,
    command: [
      ...options.enter ?? [],
      Deno.execPath(),
      "run",
      "--quiet",
      "--frozen",
      `--config=${options.root}/deno.json`,
      "--no-prompt",
      "--no-remote",
      `--allow-net=${net.join(",")}`,
      `--allow-read=${[file, ...sockets].join(",")}`,
      `--allow-write=${sockets.join(",")}`,
      `${options.root}/cli/quickstart/gate_main.ts`,
      file,
    ],
    logFile: `${stack.dataDir}/log/${name}.log`,
    env: componentEnv(),
  });
}
