/** A client of Redfish, as far as a machine is started from an image: nothing assumed of a maker, every path read. */
export * from "./boot.ts";
export { type Credentials, Redfish, type RedfishOptions, type Resource } from "./client.ts";
export { discover, type DiscoveredSystem, type MediaSlot } from "./discover.ts";
export * from "./logs.ts";
export * from "./media.ts";
export { type BmcAddress, isLoopback, openTransport, parseFingerprint, type Transport } from "./transport.ts";
