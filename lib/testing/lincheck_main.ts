import { checkLinearizable } from "./history.ts";
import { JepsenLogError, parseJepsenLog } from "./jepsen.ts";

const HELP = `deno task lincheck <file> [file ...]

Decides whether a Jepsen log of one register (initially nil) is linearizable. One event a line:
  INFO  jepsen.util - <process> <:invoke|:ok|:fail|:info> <:read|:write|:cas> <value>
with nil, an integer, [old new] or :timed-out as value. Lines of any other form are ignored.
Exit code 0: linearizable, 1: not, 2: unreadable.`;

/** Decides the named logs; answers the exit code: the worst of all. */
export function lincheckMain(args: readonly string[], print: (line: string) => void): number {
  if (args.length === 0 || args.some((arg) => arg.startsWith("-"))) {
    print(HELP);
    return args.includes("--help") || args.includes("-h") ? 0 : 2;
  }
  let worst = 0;
  for (const file of args) {
    try {
      const history = parseJepsenLog(new TextDecoder("utf-8", { fatal: true }).decode(Deno.readFileSync(file)));
      const linearizable = checkLinearizable(history).length === 0;
      const open = history.filter(({ returnedAt }) => returnedAt === Infinity).length;
      print(
        `${linearizable ? "linearizable" : "NOT linearizable"}: ${file}, ${history.length} operations, ${open} open`,
      );
      if (!linearizable) worst = Math.max(worst, 1);
    } catch (error) {
      // A file that cannot be opened, bytes that are no text, or events that contradict each other.
      const unreadable = error instanceof JepsenLogError || error instanceof TypeError ||
        Object.values(Deno.errors).some((kind) => error instanceof kind);
      if (!unreadable) throw error;
      print(`unreadable: ${file}: ${(error as Error).message}`);
      worst = 2;
    }
  }
  return worst;
}

if (import.meta.main) Deno.exit(lincheckMain(Deno.args, (line) => console.log(line)));
