/** The operator's command line as a library: for whole-cloud tests, which do by program what a person types. */
export { buildUc } from "./app.ts";
export { importMessages } from "./commands/compute.ts";
export { statusOf } from "./commands/system.ts";
export { examineHost } from "./doctor/mod.ts";
export { exitCodes } from "./frame/exit_codes.ts";
export type { Io } from "./frame/io.ts";
export { operatorAuthorization } from "./frame/operator_key.ts";
export type { Session } from "./frame/session.ts";
export { writeCpio } from "./image/cpio.ts";
export { buildTinyImage } from "./image/mod.ts";
export { directorySource, resolveModules } from "./image/modules.ts";
export { type GuestPackages, resolvePackages, runProgram, unpack } from "./image/packages.ts";
export * from "./quickstart/cloud.ts";
export { namespaceOf } from "./quickstart/fabric.ts";
export { companions, type Profile, type ProfileName, profiles } from "./quickstart/profiles.ts";
export { portsOf, singleNodeComponents } from "./quickstart/run.ts";
export { openSession } from "./quickstart/session.ts";
export { version } from "./version.ts";
