import { buildRouteMap } from "@stricli/core";
import { command, parseInteger, text } from "../frame/command.ts";
import { fault } from "@ultracloud/base";
import { quickstartHome, releaseHome, takeLock } from "../quickstart/home.ts";
import { nextCommands, runQuickstart, summary } from "../quickstart/run.ts";

/** Root of the workspace this program was started from. */
const workspaceRoot = new URL("../..", import.meta.url).pathname.replace(/\/$/, "");

const engines = ["auto", "ovn", "user"] as const;
type Engine = (typeof engines)[number];

export const quickstart = buildRouteMap({
  docs: { brief: "A whole cloud on this machine, with a VM in it" },
  defaultCommand: "up",
  routes: {
    up: command<{ keep: boolean; portOffset: number; with?: string; engine: Engine }, []>({
      brief: "Start the cloud, boot a VM, prove that it answers, take everything down",
      details:
        "Everything is written below ./work (ULTRACLOUD_WORK_ROOT moves it). The cloud listens on 127.0.0.1 only.",
      flags: {
        keep: { kind: "boolean", default: false, brief: "Leave it running (ULTRACLOUD_QUICKSTART_KEEP_VM=1)" },
        with: { kind: "parsed", parse: text, optional: true, brief: "Optional components to add, comma separated" },
        engine: {
          kind: "enum",
          values: engines,
          default: "auto",
          brief: "Network of guests; auto: ovn as root with its packages, else user",
        },
        portOffset: { kind: "parsed", parse: parseInteger, default: "0", brief: "Added to every port" },
      },
      async run({ io, flags: common }, flags) {
        if (!Number.isInteger(flags.portOffset) || flags.portOffset < 0 || flags.portOffset > 50_000) {
          throw fault(
            "invalid_argument",
            "bad_port_offset",
            `Cannot use ${flags.portOffset} as a port offset: wanted 0 to 50000`,
          );
        }
        if (common.explain || common.dryRun) {
          return io.out(`would start a cloud below ${quickstartHome(io.env).root}\n`);
        }
        const keep = flags.keep || io.env("ULTRACLOUD_QUICKSTART_KEEP_VM") === "1";
        const result = await runQuickstart(
          {
            root: workspaceRoot,
            keep,
            portOffset: flags.portOffset,
            with: flags.with?.split(",") ?? [],
            engine: flags.engine,
          },
          quickstartHome(io.env),
          io,
        );
        io.out((common.output === "json" ? JSON.stringify(result, null, 2) : summary(result)) + "\n");
        if (result.kept) io.err(`\n${nextCommands()}\n`);
        if (!result.success) {
          throw fault(
            "failed_precondition",
            "quickstart_incomplete",
            `Cannot do the whole quickstart here: ${result.notDone.join("; ")}`,
          );
        }
      },
    }),
    down: command({
      brief: "End a kept cloud and remove its data",
      async run({ io }) {
        const home = quickstartHome(io.env);
        using _lock = await takeLock(home);
        const ended = await releaseHome(home);
        io.err(ended === 0 ? "Nothing ran\n" : `Ended ${ended} processes and removed their data\n`);
      },
    }),
  },
});
