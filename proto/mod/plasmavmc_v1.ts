export * from "../gen/ultracloud/plasmavmc/v1/plasmavmc_pb.ts";
