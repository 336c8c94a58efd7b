/** plasmavmc with V8's profiler on while the file `on` exists in the directory that PROFILE_DIR names. */
import { Session } from "node:inspector";

const dir = Deno.env.get("PROFILE_DIR")!;
const session = new Session();
session.connect();
session.post("Profiler.enable");
session.post("Profiler.setSamplingInterval", { interval: 200 });
const wanted = () => {
  try {
    return Deno.statSync(`${dir}/on`).isFile;
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
    Deno.writeTextFileSync(`${dir}/cpu.tmp`, JSON.stringify(answer.profile));
    Deno.renameSync(`${dir}/cpu.tmp`, `${dir}/cpu.json`);
  });
}, 100);
// Run as by its launcher: the entry of a process is nothing that a room exports.
await import(new URL("../../services/plasmavmc/main.ts", import.meta.url).href);
