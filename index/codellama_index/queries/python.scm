; Every binding of a name by `=` outside of functions is a definition, in `if` and `try` blocks too;
; what lies inside a function is dropped by `extract` (parameters and locals are no symbols).

(class_definition name: (identifier) @name) @definition.class
(function_definition name: (identifier) @name) @definition.function
(type_alias_statement left: (type [
  (identifier) @name
  (generic_type (identifier) @name)
])) @definition.type

(assignment left: (identifier) @name right: (lambda)) @bound.function
(assignment left: (identifier) @name) @definition.variable
(assignment left: (pattern_list (identifier) @name)) @definition.variable
(assignment left: (tuple_pattern (identifier) @name)) @definition.variable

(lambda) @anonymous

(import_statement name: (dotted_name) @import.module)
(import_statement name: (aliased_import name: (dotted_name) @import.module alias: (identifier) @import.name))
(import_from_statement module_name: (_) @import.module name: (dotted_name) @import.name)
(import_from_statement module_name: (_) @import.module
  name: (aliased_import name: (dotted_name) @import.name))
(import_from_statement module_name: (_) @import.module (wildcard_import))
