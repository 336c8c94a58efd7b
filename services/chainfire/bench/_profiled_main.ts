/** The component, with V8's profiler on while the file `profile` exists in its state directory. */
import { Session } from "node:inspector";

const stateDir = (await Deno.readTextFile(Deno.args[1]!)).match(/stateDir = "(.+)"/)![1]!;
const session = new Session();
session.connect();
session.post("Profiler.enable");
session.post("Profiler.setSamplingInterval", { interval: 200 });
const wanted = () => {
  try {
    return Deno.statSync(`${stateDir}/profile`).isFile;
  } catch {
    return false;
  }
};
let on = false;
setInterval(() => {
  if (wanted() === on) return;
  on = !on;
  if (on) return session.post("Profiler.start");
  session.post("Profiler.stop", (error, answer) => {
    if (error) throw error;
    Deno.writeTextFileSync(`${stateDir}/cpu.tmp`, JSON.stringify(answer.profile));
    Deno.renameSync(`${stateDir}/cpu.tmp`, `${stateDir}/cpu.json`);
  });
}, 100);
await import("../main.ts");
