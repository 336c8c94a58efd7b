/** plasmavmc, profiled on request in the directory that PROFILE_DIR names. */
import { profileOnRequest } from "@ultracloud/testing";

profileOnRequest(Deno.env.get("PROFILE_DIR")!);
// Run as by its launcher: the entry of a process is nothing that a room exports.
await import(new URL("../../services/plasmavmc/main.ts", import.meta.url).href);
