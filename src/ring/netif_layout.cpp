// SPDX-License-Identifier: MIT
//
// Proof, at compile time, that ring/netif.hpp and ring/shared_ring.hpp say what xen/io/netif.h and
// xen/io/ring.h say. Xen's headers are seen by this file alone.
#include <atomic>
#include <cstring>

#define xen_mb() std::atomic_thread_fence(std::memory_order_seq_cst)
#define xen_rmb() std::atomic_thread_fence(std::memory_order_acquire)
#define xen_wmb() std::atomic_thread_fence(std::memory_order_release)

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
extern "C" {
#include <xen/io/netif.h>
#include <xen/xen.h>
}
DEFINE_RING_TYPES(netif_ctrl, struct xen_netif_ctrl_request, struct xen_netif_ctrl_response);
#pragma GCC diagnostic pop

#include "ring/back_ring.hpp"
#include "ring/front_ring.hpp"

namespace uvif::ring {
namespace {

template <class Ours, class Theirs>
constexpr bool same_size = sizeof(Ours) == sizeof(Theirs) && alignof(Ours) <= alignof(Theirs);

static_assert(same_size<TxRequest, netif_tx_request>);
static_assert(offsetof(TxRequest, gref) == offsetof(netif_tx_request, gref));
static_assert(offsetof(TxRequest, offset) == offsetof(netif_tx_request, offset));
static_assert(offsetof(TxRequest, flags) == offsetof(netif_tx_request, flags));
static_assert(offsetof(TxRequest, id) == offsetof(netif_tx_request, id));
static_assert(offsetof(TxRequest, size) == offsetof(netif_tx_request, size));
static_assert(sizeof(TxResponse) == sizeof(netif_tx_response));
static_assert(offsetof(TxResponse, status) == offsetof(netif_tx_response, status));
static_assert(same_size<RxRequest, netif_rx_request>);
static_assert(offsetof(RxRequest, gref) == offsetof(netif_rx_request, gref));
static_assert(same_size<RxResponse, netif_rx_response>);
static_assert(offsetof(RxResponse, offset) == offsetof(netif_rx_response, offset));
static_assert(offsetof(RxResponse, flags) == offsetof(netif_rx_response, flags));
static_assert(offsetof(RxResponse, status) == offsetof(netif_rx_response, status));
static_assert(sizeof(ExtraInfo) == sizeof(netif_extra_info));
static_assert(offsetof(ExtraInfo, data) == offsetof(netif_extra_info, u));
static_assert(sizeof(CtrlRequest) == sizeof(xen_netif_ctrl_request));
static_assert(offsetof(CtrlRequest, data) == offsetof(xen_netif_ctrl_request, data));
static_assert(sizeof(CtrlResponse) == sizeof(xen_netif_ctrl_response));
static_assert(offsetof(CtrlResponse, data) == offsetof(xen_netif_ctrl_response, data));

static_assert(TxFlags::checksum_blank == NETTXF_csum_blank && TxFlags::data_validated == NETTXF_data_validated);
static_assert(TxFlags::more_data == NETTXF_more_data && TxFlags::extra_info == NETTXF_extra_info);
static_assert(RxFlags::checksum_blank == NETRXF_csum_blank && RxFlags::data_validated == NETRXF_data_validated);
static_assert(RxFlags::more_data == NETRXF_more_data && RxFlags::extra_info == NETRXF_extra_info);
static_assert(static_cast<int>(TxStatus::dropped) == NETIF_RSP_DROPPED &&
              static_cast<int>(TxStatus::error) == NETIF_RSP_ERROR);
static_assert(static_cast<int>(TxStatus::okay) == NETIF_RSP_OKAY && static_cast<int>(TxStatus::null) == NETIF_RSP_NULL);
static_assert(static_cast<int>(ExtraType::gso) == XEN_NETIF_EXTRA_TYPE_GSO);
static_assert(static_cast<int>(ExtraType::mcast_add) == XEN_NETIF_EXTRA_TYPE_MCAST_ADD);
static_assert(static_cast<int>(ExtraType::mcast_del) == XEN_NETIF_EXTRA_TYPE_MCAST_DEL);
static_assert(static_cast<int>(ExtraType::hash) == XEN_NETIF_EXTRA_TYPE_HASH &&
              extra_type_count == XEN_NETIF_EXTRA_TYPE_MAX);
static_assert(static_cast<int>(CtrlType::get_hash_flags) == XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS &&
              static_cast<int>(CtrlType::set_hash_algorithm) == XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM &&
              static_cast<int>(CtrlType::del_gref_mapping) == XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING);
static_assert(static_cast<int>(CtrlStatus::success) == XEN_NETIF_CTRL_STATUS_SUCCESS &&
              static_cast<int>(CtrlStatus::not_supported) == XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED &&
              static_cast<int>(CtrlStatus::invalid_parameter) == XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER &&
              static_cast<int>(CtrlStatus::buffer_overflow) == XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW);
static_assert(static_cast<int>(HashAlgorithm::toeplitz) == XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ);
static_assert(HashTypes::ipv4 == XEN_NETIF_CTRL_HASH_TYPE_IPV4 &&
              HashTypes::ipv4_tcp == XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP &&
              HashTypes::ipv6 == XEN_NETIF_CTRL_HASH_TYPE_IPV6 &&
              HashTypes::ipv6_tcp == XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP);
static_assert(sizeof(GrefEntry) == sizeof(xen_netif_gref) && GrefEntry::read_only == XEN_NETIF_CTRLF_GREF_readonly);
static_assert(offsetof(GrefEntry, flags) == offsetof(xen_netif_gref, flags) &&
              offsetof(GrefEntry, status) == offsetof(xen_netif_gref, status));
static_assert(ExtraInfo::more == XEN_NETIF_EXTRA_FLAG_MORE);
static_assert(static_cast<int>(GsoType::tcpv4) == XEN_NETIF_GSO_TYPE_TCPV4 &&
              static_cast<int>(GsoType::tcpv6) == XEN_NETIF_GSO_TYPE_TCPV6);

static_assert(TxBackRing::size == __CONST_RING_SIZE(netif_tx, 4096));
static_assert(RxBackRing::size == __CONST_RING_SIZE(netif_rx, 4096));
static_assert(CtrlBackRing::size == __CONST_RING_SIZE(netif_ctrl, 4096));
static_assert(TxBackRing::Shared::header_size == offsetof(netif_tx_sring, ring));
static_assert(RxBackRing::Shared::header_size == offsetof(netif_rx_sring, ring));
static_assert(CtrlBackRing::Shared::header_size == offsetof(netif_ctrl_sring, ring));
static_assert(TxBackRing::Shared::slot_size == sizeof(netif_tx_sring_entry));
static_assert(RxBackRing::Shared::slot_size == sizeof(netif_rx_sring_entry));
static_assert(CtrlBackRing::Shared::slot_size == sizeof(netif_ctrl_sring_entry));
static_assert(offsetof(netif_tx_sring, req_prod) == 0 && offsetof(netif_tx_sring, req_event) == 4);
static_assert(offsetof(netif_tx_sring, rsp_prod) == 8 && offsetof(netif_tx_sring, rsp_event) == 12);

}  // namespace
}  // namespace uvif::ring
