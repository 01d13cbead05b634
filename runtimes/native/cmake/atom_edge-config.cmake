# find_package(atom_edge): the target atom_edge::atom_edge. Its folder is what
# `python -m atom_edge.runtimes.native --cmake` prints: pass it as -Datom_edge_DIR=...
# A library for another machine than this one is named by -DATOM_EDGE_LIBRARY=...
get_filename_component(_atom_edge_folder "${CMAKE_CURRENT_LIST_DIR}" DIRECTORY)
find_library(ATOM_EDGE_LIBRARY atom_edge PATHS "${_atom_edge_folder}" NO_DEFAULT_PATH
    NO_CMAKE_FIND_ROOT_PATH)
if(NOT ATOM_EDGE_LIBRARY)
    set(atom_edge_FOUND FALSE)
    set(atom_edge_NOT_FOUND_MESSAGE
        "the library is not built: run `python -m atom_edge.runtimes.native.build`")
elseif(NOT TARGET atom_edge::atom_edge)
    add_library(atom_edge::atom_edge SHARED IMPORTED)
    set_target_properties(atom_edge::atom_edge PROPERTIES
        IMPORTED_LOCATION "${ATOM_EDGE_LIBRARY}"
        IMPORTED_NO_SONAME TRUE
        INTERFACE_INCLUDE_DIRECTORIES "${_atom_edge_folder}/include")
endif()
