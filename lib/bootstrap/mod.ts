/** How a machine that is nobody yet speaks: what it was told at boot, and the deployer's bootstrap listener. */
export * from "./authority.ts";
export * from "./deployer.ts";
export * from "./handover.ts";
export * from "./marks.ts";
export * from "./one_shot.ts";
export * from "./parameters.ts";
export * from "./programs.ts";
