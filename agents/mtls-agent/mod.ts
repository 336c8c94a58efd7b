/** Certificates of a node and its services, kept fresh in files. */
export { Keeper, type KeeperDeps, type KeeperOptions, type Kept } from "./keeper.ts";
