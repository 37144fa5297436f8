(class_definition name: (identifier) @name) @definition.class
(object_definition name: (identifier) @name) @definition.class
(package_object name: (identifier) @name) @definition.module
(trait_definition name: (identifier) @name) @definition.interface
(enum_definition name: (identifier) @name) @definition.enum
(simple_enum_case name: (identifier) @name) @definition.constant
(full_enum_case name: (identifier) @name) @definition.constant
(function_definition name: [(identifier) (operator_identifier)] @name) @definition.function
(function_declaration name: [(identifier) (operator_identifier)] @name) @definition.function
(val_definition pattern: [(identifier) @name (identifiers (identifier) @name)]) @definition.variable
(val_definition pattern: (tuple_pattern (identifier) @name)) @definition.variable
(var_definition pattern: [(identifier) @name (identifiers (identifier) @name)]) @definition.variable
(val_declaration name: (identifier) @name) @definition.variable
(var_declaration name: (identifier) @name) @definition.variable
(type_definition name: (type_identifier) @name) @definition.type
(given_definition name: (identifier) @name) @definition.variable
(class_parameter ["val" "var"] name: (identifier) @name) @definition.field

; Uses
(block) @local
(lambda_expression) @local
(case_block) @local
(comment) @comment
(block_comment) @comment

(import_declaration path: (identifier) @import .)
(namespace_selectors (identifier) @import)
(namespace_selectors (arrow_renamed_identifier name: (identifier) @import alias: (identifier) @import))

(identifier) @reference
(type_identifier) @reference
(operator_identifier) @reference
