/* atom_edge.h: bundles of atom-edge in C and C++. */
#ifndef ATOM_EDGE_H
#define ATOM_EDGE_H

#if defined(_WIN32)
#if defined(ATOM_EDGE_BUILDING)
#define ATOM_EDGE_API __declspec(dllexport)
#else
#define ATOM_EDGE_API __declspec(dllimport)
#endif
#else
#define ATOM_EDGE_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The version of the library, such as "0.1.0". */
ATOM_EDGE_API const char *atom_edge_version(void);

#ifdef __cplusplus
}
#endif

#endif
