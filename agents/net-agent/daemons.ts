import type { TlsFiles } from "@ultracloud/config";
import type { Program } from "./programs.ts";

/** Where the daemons of one host keep what is theirs; absolute paths, the sockets' short. */
export interface Layout {
  readonly stateDir: string;
  readonly runDir: string;
}

export interface DaemonSpec {
  readonly name: string;
  readonly program: Program;
  readonly args: readonly string[];
  /** Control socket whose answer proves that the daemon lives; undefined: only its pid file's lock tells. */
  readonly control: string | undefined;
  /** Database made before the first start. */
  readonly database?: { readonly file: string; readonly schema: string };
}

export interface DaemonOptions extends Layout {
  /** True on the host that holds the northbound and southbound databases. */
  readonly central: boolean;
  /** Address and port on which other hosts reach the southbound database, by TLS; absent: none do. */
  readonly southboundListen?: string | undefined;
  /** The same of the northbound database, for a prismnet on another host. */
  readonly northboundListen?: string | undefined;
  /** Certificates of this host; needed for everything that is not a socket of its own. */
  readonly tls?: TlsFiles | undefined;
}

/** Arguments of OVS and OVN programs that speak TLS; none without certificates. */
export function tlsArgs(tls: TlsFiles | undefined): string[] {
  if (!tls) return [];
  return [`--private-key=${tls.keyFile}`, `--certificate=${tls.certFile}`, `--ca-cert=${tls.caFile}`];
}

export const confSocket = (o: Layout) => `${o.runDir}/conf.sock`;
export const northboundSocket = (o: Layout) => `${o.runDir}/nb.sock`;
export const southboundSocket = (o: Layout) => `${o.runDir}/sb.sock`;

/** All directories the programs would otherwise take from their build. */
export function daemonEnv(o: Layout): Record<string, string> {
  const env: Record<string, string> = {};
  for (const family of ["OVS", "OVN"]) {
    env[`${family}_RUNDIR`] = o.runDir;
    env[`${family}_LOGDIR`] = o.stateDir;
    env[`${family}_DBDIR`] = o.stateDir;
    env[`${family}_SYSCONFDIR`] = o.stateDir;
  }
  return env;
}

/** The daemons of a host, in the order of their start. */
export function daemonsOf(o: DaemonOptions): DaemonSpec[] {
  const { stateDir, runDir } = o;
  const common = (name: string) => [`--pidfile=${runDir}/${name}.pid`, `--log-file=${stateDir}/${name}.log`];
  const control = (name: string) => `${runDir}/${name}.ctl`;
  const database = (name: string, schema: string, remotes: readonly string[] = []): DaemonSpec => ({
    name,
    program: "ovsdb-server",
    database: { file: `${stateDir}/${name}.db`, schema },
    args: [
      ...common(name),
      `--unixctl=${control(name)}`,
      `--remote=punix:${runDir}/${name}.sock`,
      ...remotes.length > 0 ? tlsArgs(o.tls) : [],
      ...remotes.map((remote) => `--remote=${remote}`),
      `${stateDir}/${name}.db`,
    ],
    control: control(name),
  });
  const listening = (address: string | undefined) => address === undefined ? [] : [`pssl:${listenerOf(address)}`];
  return [
    database("conf", "/usr/share/openvswitch/vswitch.ovsschema"),
    ...(o.central
      ? [
        database("nb", "/usr/share/ovn/ovn-nb.ovsschema", listening(o.northboundListen)),
        database("sb", "/usr/share/ovn/ovn-sb.ovsschema", listening(o.southboundListen)),
      ]
      : []),
    {
      name: "vswitchd",
      program: "ovs-vswitchd",
      args: [
        ...common("vswitchd"),
        `--unixctl=${control("vswitchd")}`,
        // Without the kernel's module its datapath would only be looked for in vain.
        "--disable-system",
        `unix:${confSocket(o)}`,
      ],
      control: control("vswitchd"),
    },
    ...(o.central
      ? [
        {
          name: "northd",
          program: "ovn-northd",
          args: [
            ...common("northd"),
            `--unixctl=${control("northd")}`,
            `--ovnnb-db=unix:${northboundSocket(o)}`,
            `--ovnsb-db=unix:${southboundSocket(o)}`,
          ],
          control: control("northd"),
        } satisfies DaemonSpec,
      ]
      : []),
    {
      name: "controller",
      program: "ovn-controller",
      // It takes no --unixctl (23.03): its socket's name holds its pid.
      args: [...common("controller"), ...tlsArgs(o.tls), `unix:${confSocket(o)}`],
      control: undefined,
    },
  ];
}

/** "10.0.0.1:6642" as OVSDB writes a passive remote: the port first. */
function listenerOf(address: string): string {
  const at = address.lastIndexOf(":");
  return `${address.slice(at + 1)}:${address.slice(0, at)}`;
}
