//! Tests on a real API server, or on etcd alone: etcd, kube-apiserver and kubectl as they are, agents with the rights they are shipped with.
//! In: the built programs. Out: what a user with kubectl would see.
//! Invariant: each test has a cluster of its own, so tests run side by side and in any order.
//! Never: skips; without root or without the programs a test fails and says so.

mod asked;
mod balancers;
mod bgp;
mod chores;
mod container;
mod daemonset;
mod definitions;
mod deploy;
mod etcd;
mod etcd_bgp;
mod etcd_services;
mod felix;
mod image;
mod install;
mod mirror;
mod moves;
mod policy;
mod pools;
mod routes;
mod shop;
mod storm;
mod story;
mod told;
mod whole;
