(class_declaration ["class" "struct" "actor"] name: (type_identifier) @name) @definition.class
(class_declaration "enum" name: (type_identifier) @name) @definition.enum
(class_declaration "extension" name: (user_type) @name) @scope
(protocol_declaration name: (type_identifier) @name) @definition.interface
(enum_entry name: (simple_identifier) @name) @definition.constant
(function_declaration name: (simple_identifier) @name) @definition.function
(protocol_function_declaration name: (simple_identifier) @name) @definition.method
(init_declaration "init" @name) @definition.method
(property_declaration name: (pattern bound_identifier: (simple_identifier) @name)) @definition.variable
(protocol_property_declaration name: (pattern bound_identifier: (simple_identifier) @name)) @definition.field
(typealias_declaration name: (type_identifier) @name) @definition.type
(associatedtype_declaration name: (type_identifier) @name) @definition.type

; Uses
(lambda_literal) @local
(computed_property) @local
(willset_didset_block) @local
(deinit_declaration) @local
(subscript_declaration) @local
(comment) @comment
(multiline_comment) @comment

(import_declaration (identifier) @import)
(import_declaration (identifier (simple_identifier) @import .))

(simple_identifier) @reference
(type_identifier) @reference
